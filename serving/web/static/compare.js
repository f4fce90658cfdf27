import { drawCommand } from "./curl.js";
import { Frame } from "./frame.js";
import { drawHistogram } from "./histogram.js";
import { exactness, rate } from "./rates.js";
import { $, call, element, follow, page, passing, render, sentence, shell, words, write } from "./shell.js";

const SCALE = [-0.2, 1]; // strangers lie around zero; similarities below -0.2 are drawn at the left end
const MARKS = { same: "M14 25l7 7 13-15", different: "M16 16l16 16M32 16L16 32", undecided: "M18 18a6 6 0 1 1 9 5q-3 2-3 5M24 35v.1" };
const state = { answer: null, problem: null, working: false, run: 0 };
const photos = [1, 2].map((number) => new Frame(() => words()[`photo${number}`], `image${number}`, {
  changed,
  seen: render,
  picked: () => (photos.every((photo) => photo.file) ? compare() : render()),
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
  const picked = photos.some((photo) => photo.pick !== null);
  const { answer = null, problem = null } = await call(`/v1/verify${picked ? "?which=all" : ""}`, { method: "POST", body: form });
  if (answer) await follow(answer);
  if (run !== state.run) return; // another photo was chosen meanwhile
  Object.assign(state, { working: false, answer: answer && picked ? ofPicked(answer) : answer, problem });
  render();
  for (const name of ["#answer", "#problem"]) $(name).scrollIntoView({ block: "nearest" }); // where the window is very low
}

// Of an answer about all faces, the comparison of those that are chosen; where no face is known, of the most similar one.
function ofPicked(answer) {
  const wanted = photos.map((photo, index) => {
    const box = photo.faces?.find((face) => face.chosen)?.box, apart = (face) => Math.hypot(...box.map((edge, at) => edge - face.box[at]));
    const faces = answer[`faces${index + 1}`];
    return box ? faces.indexOf(faces.reduce((one, other) => (apart(other) < apart(one) ? other : one))) : null;
  });
  const pair = answer.pairs.find(({ face1, face2 }) => [face1, face2].every((face, index) => wanted[index] === null || wanted[index] === face));
  return { ...answer, ...pair, faces: [answer.faces1[pair.face1], answer.faces2[pair.face2]] };
}

function draw(said) {
  const { answer, working } = state;
  photos.forEach((photo, index) => {
    photo.draw(answer?.faces[index] ?? null, state.problem?.field === photo.field ? state.problem : null, Boolean(answer));
  });
  // One error is said once: that of a photo at the photo, and a missing key in the form for it.
  const { code, field } = state.problem ?? {};
  const elsewhere = code === "unauthorized" || photos.some((photo) => photo.field === field || (code && photo.fault === code));
  const problem = elsewhere ? null : state.problem;
  write("#lead", whatToDo(said));
  write("#announced", announced(said));
  document.body.classList.toggle("decided", Boolean(answer ?? problem) || working);
  $("#working").hidden = !working;
  $("#clear").hidden = !photos.some((photo) => photo.file);
  drawAnswer(said);
  $("#problem").hidden = !problem;
  write("#problem-text", problem ? sentence(problem.code) : "");
  $("#again").hidden = !problem || !passing(problem.code);
}

function whatToDo(said) {
  const wrong = photos.filter((photo) => photo.fault && photo.fault !== "several_faces"), missing = photos.find((photo) => !photo.file);
  if (wrong.length) return wrong.length > 1 ? said.chooseOthers : said.chooseAnother(wrong[0].name);
  return missing && photos.some((photo) => photo.file) ? said.nowChoose(missing.name) : said.compareLead;
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

const inWords = (answer) => answer.false_match_rate === null ? "" : rate(answer, answer.false_match_rate_floor);

function drawAnswer(said) {
  const { answer } = state;
  $("#answer").hidden = !answer;
  if (!answer) return;
  const unfit = because(answer);
  for (const word of Object.keys(MARKS)) $("#answer").classList.toggle(word, word === answer.verdict);
  $("#mark").setAttribute("d", MARKS[answer.verdict]);
  write("#verdict", headline(answer));
  $("#why").hidden = answer.verdict !== "undecided";
  write("#why", unfit.length ? said.unfitWhy : said.undecidedWhy);
  $("#reasons").hidden = !unfit.length;
  $("#reasons").replaceChildren(...unfit.map((text) => element("li", {}, text)));
  $("#rate").hidden = Boolean(unfit.length);
  write("#rate", inWords(answer));
  $("#answer-synthetic").hidden = !answer.synthetic;
  $(".scale").hidden = Boolean(unfit.length); // no number is known to hold for such photos
  drawScale(answer, said);
  drawDetails(answer, said);
}

function drawScale(answer, said) {
  const place = (value) => `${100 * Math.min(1, Math.max(0, (value - SCALE[0]) / (SCALE[1] - SCALE[0])))}%`;
  const [low, high] = answer.threshold_interval, value = answer.similarity.toFixed(3);
  $("#bar").setAttribute("aria-label", said.scale(value, low.toFixed(3), high.toFixed(3)));
  write("#similarity", value);
  $("#doubt").style.left = place(low);
  $("#doubt").style.right = `calc(100% - ${place(high)})`;
  $("#zone").style.left = place(high);
  $("#limit").style.left = place(answer.threshold);
  $("#point").style.left = place(answer.similarity);
}

function drawDetails(answer, said) {
  const unfit = answer.reasons?.length, exact = unfit ? "" : exactness(answer, answer.false_match_rate_floor);
  const rows = [
    ...(exact ? [[said.factExact, exact]] : []),
    ...(unfit ? [[said.similarity, `${answer.similarity.toFixed(3)} · ${said.noMeaning}`]] : []),
    [said.factThreshold, said.thresholdIn(answer.threshold.toFixed(3), ...answer.threshold_interval.map((end) => end.toFixed(3)))],
    [said.factQuality, answer.faces.map((face) => said.quality(face.quality.inter_eye_distance, face.quality.yaw)).join(" · ")],
    [said.factScores, answer.faces.map((face) => face.detection_score.toFixed(3)).join(" · ")],
    [said.factTime, `${answer.timings_ms.total.toFixed(1)} ms`],
    [said.factCached, answer.cached.map((cached) => (cached ? said.yes : said.no)).join(" · ")],
    [said.factModel, answer.model],
  ];
  $("#facts").replaceChildren(...rows.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
  const calibration = shell.model?.digest === answer.model && !unfit ? shell.model.calibration : null;
  $("#scores").setAttribute("aria-label", said.scores);
  drawHistogram($("#scores"), calibration, SCALE, { threshold: answer.threshold, pair: answer.similarity });
  drawCommand();
}

$("#photos").append(...photos.map((photo) => photo.element));
$("#again").addEventListener("click", compare);
$("#compare").addEventListener("submit", (event) => event.preventDefault());
$("#compare").addEventListener("reset", () => { for (const photo of photos) photo.choose(null); photos[0].input.focus(); });
page(draw, () => {
  state.problem = null;
  for (const photo of photos) if (photo.file && !photo.detection) photo.look(photo.file);
  if (photos.every((photo) => photo.file)) compare();
  else render();
});
