// Show the served model: its origin, threshold, figures, limits and card.
import { drawHistogram } from "./histogram.js";
import { round } from "./rates.js";
import { ask } from "./session.js";
import { $, element, missing, page, shell, words, write } from "./shell.js";

const SCALE = [-0.5, 1];
let card = { digest: null, html: "" };

const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(2)} %`);
const range = (pair, form) => (pair ? `${form(pair[0])} – ${form(pair[1])}` : "");

function cell(name, value, interval) { // a phone shows the name next to the value, without a header row
  const made = element("td", { "data-name": words()[name] }, value);
  if (interval) made.append(element("small", {}, interval));
  return made;
}

function setRow(one) {
  const said = words(), row = element("tr"), name = element("th", { scope: "row" }, one.name);
  const at = one.at_threshold ?? {};
  name.append(element("small", {}, [one.kind === "held-out" ? said.heldOut : said.benchmark, one.synthetic ? said.drawn : ""].filter(Boolean).join(" · ")));
  row.append(
    name,
    cell("pairs", one.pairs.toLocaleString(shell.language)),
    cell("accuracy", percent(one.accuracy), one.accuracy_interval ? range(one.accuracy_interval, percent) : `± ${percent(one.accuracy_std)}`),
    cell("fmr", percent(at.fmr), range(at.fmr_interval, percent)),
    cell("fnmr", percent(at.fnmr), range(at.fnmr_interval, percent)),
    cell("auc", one.auc === null ? "–" : one.auc.toFixed(4), range(one.auc_interval, (value) => value.toFixed(4))),
  );
  return row;
}

function list(place, rows) {
  place.replaceChildren(...rows.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
}

function draw(said) {
  const { model } = shell;
  $("#waiting").hidden = Boolean(model) || !missing();
  write("#waiting", missing());
  $("#served").hidden = !model;
  if (!model) return;
  const { calibration, training, contract } = model;
  const number = (value) => value.toLocaleString(shell.language);
  $("#origin").classList.toggle("drawn", model.synthetic);
  write("#origin-title", model.synthetic ? said.originDrawn : said.originReal);
  $("#origin-text").textContent = [
    training ? said.learned(number(training.images), number(training.identities)) : said.learnedUnknown,
    model.synthetic ? said.originDrawnText : said.originRealText,
  ].join(" ");
  write("#threshold", model.threshold.toFixed(3));
  write("#threshold-interval", said.thresholdInterval(...model.threshold_interval.map((value) => value.toFixed(3))));
  write("#threshold-text", said.thresholdText);
  drawHistogram($("#scores"), calibration, SCALE, { threshold: model.threshold });
  $("#scores").setAttribute("aria-label", said.scores);
  const oneIn = (rate) => (rate > 0 ? said.oneIn(round(1 / rate)) : percent(0));
  list($("#calibration"), [
    [said.rateWanted, `${oneIn(calibration.fmr_requested)}${calibration.fmr_basis === "requested" ? "" : ` · ${said.finest(oneIn(calibration.fmr_target))}`}`],
    [said.rateSeen, `${percent(model.false_match_rate)}${model.false_match_rate_interval ? ` (${range(model.false_match_rate_interval, percent)})` : ""}`],
    [said.missed, percent(calibration.fnmr_observed)],
    [said.qualityTitle, said.qualityRule[model.quality_rule]],
    [said.basis, said.basisText(number(calibration.subjects), number(calibration.genuine_pairs), number(calibration.impostor_pairs))],
  ]);
  $("#sets").replaceChildren(...model.sets.map(setRow));
  $("#sets").closest(".wide").hidden = !model.sets.length;
  $("#no-sets").hidden = model.sets.length > 0;
  $("#full-report").hidden = !model.report;
  list($("#network"), [
    [said.digest, model.digest],
    [said.backbone, said.backboneText(model.backbone, model.embedding_size)],
    ...(training ? [[said.training, said.trainingText(training.epochs, training.best_epoch, training.head)]] : []),
    ...(training?.dataset ? [[said.dataset, training.dataset]] : []),
    [said.input, said.inputText(contract.color, contract.size, contract.template)],
    [said.detector, said.detectorText(contract.detector.min_face_size, said.policies[contract.detector.which] ?? contract.detector.which)],
  ]);
  $("#card").hidden = !card.html || card.digest !== model.digest;
  if (model.card && card.digest !== model.digest) loadCard(model);
}

// The service renders CARD.md: HTML in it becomes text, and the page's policy blocks inline scripts.
async function loadCard(model) {
  card = { digest: model.digest, html: "" };
  const response = await ask("/ui/card.html").catch(() => null);
  if (!response?.ok || card.digest !== model.digest) return;
  card.html = await response.text();
  $("#card-text").innerHTML = card.html;
  $("#card").hidden = false;
}

page(draw);
