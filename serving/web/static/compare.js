import { Frame } from "./frame.js";
import { drawHistogram } from "./histogram.js";
import { interval, rate } from "./rates.js";
import { $, call, element, follow, page, render, sentence, shell, words, write } from "./shell.js";

const SCALE = [-0.2, 1]; // strangers lie around zero; similarities below -0.2 are drawn at the left end
const MARKS = { same: "M14 25l7 7 13-15", different: "M16 16l16 16M32 16L16 32", undecided: "M18 18a6 6 0 1 1 9 5q-3 2-3 5M24 35v.1" };
const state = { answer: null, problem: null, working: false, run: 0 };
const photos = [1, 2].map((number) => new Frame(() => words()[`photo${number}`], `image${number}`, {
  changed,
  spill: ([file]) => { const other = photos[2 - number]; if (!other.file) other.choose(file); },
}));

function changed() {
  Object.assign(state, { answer: null, problem: null, working: false, run: state.run + 1 });
  render();
  if (photos.every((photo) => photo.file)) compare();
}

async function compare() {
  const run = ++state.run;
  Object.assign(state, { working: true, answer: null, problem: null });
  render();
  const form = new FormData();
  for (const photo of photos) form.append(photo.field, photo.file, "photo"); // the real file name may contain a person's name
  const { answer = null, problem = null } = await call("/v1/verify", { method: "POST", body: form });
  if (answer) await follow(answer);
  if (run !== state.run) return; // another photo was chosen meanwhile
  Object.assign(state, { working: false, answer, problem });
  render();
}

function draw(said) {
  photos.forEach((photo, index) => {
    photo.draw(state.answer?.faces[index] ?? null, state.problem?.field === photo.field ? state.problem : null);
  });
  const go = $("#go");
  go.disabled = state.working || !photos.every((photo) => photo.file);
  write(go, state.working ? said.working : said.compare);
  write("#announced", announced(said));
  $("#compare").classList.toggle("working", state.working);
  $("#clear").hidden = !photos.some((photo) => photo.file);
  drawAnswer(said);
  $("#problem").hidden = !state.problem;
  if (!state.problem) return;
  const photo = photos.find((one) => one.field === state.problem.field);
  write("#problem-title", photo ? `${said.problem} · ${photo.name}` : said.problem);
  write("#problem-text", sentence(state.problem.code));
}

// A short version for screen readers; a problem has its own alert.
function announced(said) {
  const { answer, working } = state;
  return answer ? `${headline(answer)}. ${[...because(answer), inWords(answer)].join(" ")}`.trim() : working ? said.working : "";
}

// A photo outside the calibrated quality: the service gives reasons instead of a rate.
function headline({ verdict, reasons }) {
  if (!reasons?.length) return words()[verdict];
  return new Set(reasons.map((one) => one.image)).size > 1 ? words().unfitPair : words().unfit;
}

function because({ reasons = [] }) {
  return photos.map((photo) => [photo, reasons.filter((one) => one.image === photo.field)]).filter(([, own]) => own.length)
    .map(([photo, own]) => words().because(photo.name, own.map((one) => words().reasons[one.reason] ?? one.reason)));
}

const inWords = (answer) => answer.false_match_rate === null ? "" : `${rate(answer, answer.false_match_rate_floor)} ${interval(answer)}`.trim();

function drawAnswer(said) {
  const { answer } = state;
  $("#answer").hidden = !answer;
  if (!answer) return;
  const place = (value) => `${100 * Math.min(1, Math.max(0, (value - SCALE[0]) / (SCALE[1] - SCALE[0])))}%`;
  const value = answer.similarity.toFixed(3), limit = answer.threshold.toFixed(3);
  for (const word of Object.keys(MARKS)) $("#answer").classList.toggle(word, word === answer.verdict);
  $("#mark").setAttribute("d", MARKS[answer.verdict]);
  const unfit = because(answer);
  write("#verdict", headline(answer));
  $("#why").hidden = answer.verdict !== "undecided";
  write("#why", unfit.length ? said.unfitWhy : said.undecidedWhy);
  $("#reasons").hidden = !unfit.length;
  $("#reasons").replaceChildren(...unfit.map((text) => element("li", {}, text)));
  $("#rate").hidden = Boolean(unfit.length);
  write("#rate", inWords(answer));
  write("#similarity", value);
  const [low, high] = answer.threshold_interval;
  $("#bar").setAttribute("aria-label", said.scale(value, low.toFixed(3), high.toFixed(3)));
  $("#doubt").style.left = place(low);
  $("#doubt").style.right = `calc(100% - ${place(high)})`;
  $("#scores").setAttribute("aria-label", said.scores);
  drawHistogram($("#scores"), shell.model?.digest === answer.model ? shell.model.calibration : null, SCALE);
  $("#zone").style.left = place(high);
  $("#limit").style.left = place(answer.threshold);
  const label = $("#limit span");
  label.textContent = said.threshold(limit);
  label.style.transform = `translateX(-${place(answer.threshold)})`; // at the ends it must stay inside the scale
  $("#point").style.left = place(answer.similarity);
  const rows = [
    [said.factTime, `${answer.timings_ms.total.toFixed(1)} ms`],
    [said.factCached, answer.cached.map((cached) => (cached ? said.yes : said.no)).join(" · ")],
    [said.factQuality, answer.faces.map((face) => said.quality(face.quality.inter_eye_distance, face.quality.yaw)).join(" · ")],
    [said.factScores, answer.faces.map((face) => face.detection_score.toFixed(3)).join(" · ")],
    [said.factModel, answer.model],
  ];
  $("#facts").replaceChildren(...rows.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
}

$("#photos").append(...photos.map((photo) => photo.element));
$("#compare").addEventListener("submit", (event) => { event.preventDefault(); if (!$("#go").disabled) compare(); });
$("#compare").addEventListener("reset", () => { for (const photo of photos) photo.choose(null); photos[0].input.focus(); });
page(draw, () => {
  state.problem = null;
  for (const photo of photos) if (photo.file && !photo.detection) photo.look(photo.file);
  if (photos.every((photo) => photo.file)) compare();
  else render();
});
