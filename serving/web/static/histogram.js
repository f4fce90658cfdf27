// Draw the scores of the calibration people over the similarity scale: strangers as a filled shape, pairs of one person as
// a line. Each is scaled to its own peak, since there are thousands of times more pairs of strangers. The threshold and the pair
// that was compared are vertical lines.
export function drawHistogram(svg, calibration, [low, high], { threshold, pair = null }) {
  svg.replaceChildren();
  const { histogram_genuine: genuine, histogram_impostor: impostor } = calibration ?? {};
  svg.parentElement.hidden = !genuine?.length || !impostor?.length;
  if (svg.parentElement.hidden) return;
  const width = 600, height = 90, bins = genuine.length;
  const x = (value) => (width * (value - low)) / (high - low);
  const outline = (counts) => {
    const peak = Math.max(...counts, 1);
    const steps = counts.map((count, bin) => {
      const from = x(-1 + (2 * bin) / bins), to = x(-1 + (2 * (bin + 1)) / bins), y = height - (height - 4) * (count / peak);
      return `L${from.toFixed(1)} ${y.toFixed(1)}L${to.toFixed(1)} ${y.toFixed(1)}`;
    });
    return `M${x(-1).toFixed(1)} ${height}${steps.join("")}L${width} ${height}`;
  };
  const lines = [[threshold, "limit-line"], [pair, "pair-line"]].filter(([value]) => value !== null)
    .map(([value, name]) => [`M${x(Math.max(value, low)).toFixed(1)} 0V${height}`, name]);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  for (const [outlined, name] of [[outline(impostor), "strangers"], [outline(genuine), "one-person"], ...lines]) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", outlined);
    path.setAttribute("class", name);
    svg.append(path);
  }
}
