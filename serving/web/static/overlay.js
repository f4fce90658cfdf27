// Draw boxes and landmarks over a photo. The drawing has the pixel size of the upright photo and is scaled like it, so it
// fits at any width; strokes keep their width on the screen (style.css).
const SVG = "http://www.w3.org/2000/svg";

export function drawFaces(overlay, faces, size) {
  overlay.replaceChildren();
  if (!size) return;
  overlay.setAttribute("viewBox", `0 0 ${size[0]} ${size[1]}`);
  // The chosen face is drawn on top.
  for (const face of [...faces].sort((one, other) => one.chosen - other.chosen)) {
    const group = add(overlay, "g", { class: face.chosen ? "face chosen" : "face" });
    const [x1, y1, x2, y2] = face.box;
    const box = { x: x1, y: y1, width: x2 - x1, height: y2 - y1, rx: (x2 - x1) / 16 };
    add(group, "rect", { ...box, class: "halo" });
    add(group, "rect", { ...box, class: "box" });
    for (const name of ["landmark halo", "landmark"])
      for (const [x, y] of face.landmarks) add(group, "path", { class: name, d: `M${x} ${y}h0` }); // the round cap draws the dot
  }
}

function add(parent, name, attributes) {
  const shape = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
  parent.append(shape);
  return shape;
}
