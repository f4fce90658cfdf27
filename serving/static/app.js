"use strict";
const $ = (selector, root = document) => root.querySelector(selector);
const photos = [...document.querySelectorAll(".photo")].map((element, index) => ({
  element, index, field: element.dataset.field, input: $("input", element), file: null, url: null,
}));
const SCALE = [-0.2, 1]; // strangers lie around zero; what is less alike than -0.2 is drawn at the left end
const MARKS = { same: "M14 25l7 7 13-15", different: "M16 16l16 16M32 16L16 32", undecided: "M18 18a6 6 0 1 1 9 5q-3 2-3 5M24 35v.1" };
const state = { language: initialLanguage(), model: null, answer: null, problem: null, working: false, run: 0 };

function initialLanguage() {
  let stored = null;
  try { stored = localStorage.getItem("eolgul.language"); } catch { /* storage may be forbidden */ }
  return WORDS[stored] ? stored : navigator.language.toLowerCase().startsWith("ko") ? "ko" : "en";
}

function setLanguage(language) {
  state.language = language;
  try { localStorage.setItem("eolgul.language", language); } catch { /* then it is not remembered */ }
  render();
}

function choose(photo, file) {
  if (photo.url) URL.revokeObjectURL(photo.url);
  photo.file = file;
  photo.url = file ? URL.createObjectURL(file) : null;
  photo.broken = false;
  if (!file) photo.input.value = "";
  state.answer = state.problem = null;
  state.run += 1;
  state.working = false;
  render();
  if (photos.every((one) => one.file)) compare();
}

async function compare() {
  const run = ++state.run;
  state.working = true;
  state.answer = state.problem = null;
  render();
  const form = new FormData();
  for (const photo of photos) form.append(photo.field, photo.file, "photo"); // file names are nobody's business
  let answer = null, problem = null;
  try {
    const response = await session.fetch("/v1/verify", { method: "POST", body: form });
    const body = await response.json();
    if (response.ok) answer = body; else problem = body;
    if (answer && answer.model !== state.model?.digest) await loadModel(); // another was swapped in
    if (response.status === 401) askForKey();
  } catch {
    problem = { code: "offline" };
  }
  if (run !== state.run) return; // another photo was chosen meanwhile
  Object.assign(state, { working: false, answer, problem });
  render();
}

function render() {
  const words = WORDS[state.language];
  document.documentElement.lang = state.language;
  document.title = `eolgul · ${words.title}`;
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = words[element.dataset.word];
  for (const button of document.querySelectorAll("[data-language]"))
    button.setAttribute("aria-pressed", String(button.dataset.language === state.language));
  for (const photo of photos) renderPhoto(photo, words);
  const go = $("#go");
  go.disabled = state.working || !photos.every((photo) => photo.file);
  go.textContent = state.working ? words.working : words.compare;
  $("#compare").classList.toggle("working", state.working);
  $("#clear").hidden = !photos.some((photo) => photo.file);
  renderAnswer(words);
  renderProblem(words);
  renderModel(words);
}

function renderPhoto(photo, words) {
  const { element, file } = photo;
  const face = state.answer?.faces[photo.index];
  const wrong = state.problem?.field === photo.field;
  element.classList.toggle("full", Boolean(file));
  element.classList.toggle("wrong", wrong);
  $(".empty", element).hidden = Boolean(file) && !photo.broken;
  $(".preview", element).hidden = !file || photo.broken;
  const image = $("img", element);
  image.alt = words.preview(photo.index + 1);
  if (photo.url && image.src !== photo.url) image.src = photo.url;
  let note = "";
  if (wrong) note = sentence(words, state.problem.code);
  else if (face) note = face.count > 1 ? words.faces(face.count) : words.face;
  else if (file) note = file.name;
  $(".note", element).textContent = note;
  drawFace($(".overlay", element), face);
}

function drawFace(overlay, face) {
  overlay.replaceChildren();
  if (!face) return;
  const [width, height] = face.size, [x1, y1, x2, y2] = face.box;
  const unit = Math.max(width, height) / 300; // one screen pixel or so, whatever the photo's size
  overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const add = (name, attributes) => {
    const shape = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
    overlay.append(shape);
  };
  const box = { x: x1, y: y1, width: x2 - x1, height: y2 - y1, rx: 6 * unit };
  add("rect", { ...box, class: "halo", "stroke-width": 4 * unit });
  add("rect", { ...box, class: "box", "stroke-width": 2 * unit });
  for (const [x, y] of face.landmarks) add("circle", { cx: x, cy: y, r: 2.6 * unit, "stroke-width": unit });
}

function renderAnswer(words) {
  const { answer } = state;
  $("#answer").hidden = !answer;
  if (!answer) return;
  const place = (value) => `${100 * Math.min(1, Math.max(0, (value - SCALE[0]) / (SCALE[1] - SCALE[0])))}%`;
  const value = answer.similarity.toFixed(3), limit = answer.threshold.toFixed(3);
  for (const word of Object.keys(MARKS)) $("#answer").classList.toggle(word, word === answer.verdict);
  $("#mark").setAttribute("d", MARKS[answer.verdict]);
  $("#verdict").textContent = words[answer.verdict];
  $("#rate").textContent = `${rate(words, answer)} ${interval(words, answer)}`.trim();
  $("#similarity").textContent = value;
  const [low, high] = answer.threshold_interval;
  $("#bar").setAttribute("aria-label", words.scale(value, low.toFixed(3), high.toFixed(3)));
  $("#doubt").style.left = place(low);
  $("#doubt").style.right = `calc(100% - ${place(high)})`;
  $("#scores").setAttribute("aria-label", words.scores);
  drawHistogram($("#scores"), state.model?.digest === answer.model ? state.model.calibration : null, SCALE);
  $("#zone").style.left = place(high);
  $("#limit").style.left = place(answer.threshold);
  const label = $("#limit span");
  label.textContent = words.threshold(limit);
  label.style.transform = `translateX(-${place(answer.threshold)})`; // at the ends it must not leave the scale
  $("#point").style.left = place(answer.similarity);
  facts([
    [words.factTime, `${answer.timings_ms.total.toFixed(1)} ms`],
    [words.factCached, answer.cached.map((cached) => (cached ? words.yes : words.no)).join(" · ")],
    [words.factQuality, answer.faces.map((face) => words.quality(face.quality.inter_eye_distance, face.quality.yaw)).join(" · ")],
    [words.factScores, answer.faces.map((face) => face.detection_score.toFixed(3)).join(" · ")],
    [words.factModel, answer.model],
  ]);
}

function rate(words, answer) {
  const odds = answer.false_match_rate;
  if (odds <= answer.false_match_rate_floor) return words.rateFloor(round(1 / odds));
  return odds > 0.1 ? words.rateMany(Math.round(odds * 100)) : words.rate(round(1 / odds));
}

function interval(words, answer) { // a rate of 0 has no "1 of N": then only the upper end is said
  if (!answer.false_match_rate_interval) return "";
  const [low, high] = answer.false_match_rate_interval;
  return low > 0 ? words.between(round(1 / high), round(1 / low)) : words.atMost(round(1 / high));
}

function round(number) { // two significant digits: more would claim what the data does not hold
  return Number(number.toPrecision(2)).toLocaleString(state.language);
}

function facts(rows) {
  $("#facts").replaceChildren(...rows.flatMap(([name, value]) => {
    const term = document.createElement("dt"), description = document.createElement("dd");
    term.textContent = name;
    description.textContent = value;
    return [term, description];
  }));
}

function renderProblem(words) {
  $("#problem").hidden = !state.problem;
  if (!state.problem) return;
  const photo = photos.find((one) => one.field === state.problem.field);
  $("#problem-title").textContent = photo ? `${words.problem} · ${words[`photo${photo.index + 1}`]}` : words.problem;
  $("#problem-text").textContent = sentence(words, state.problem.code);
}

function sentence(words, code) {
  return words.problems[code] ?? words.problems.other;
}

function renderModel(words) {
  const { model } = state;
  $("#model").textContent = model ? words.served(model.backbone, model.digest.slice(0, 12)) : words.unloaded;
  $("#synthetic").hidden = !model?.synthetic;
  $("#report").hidden = !model?.report;
}

function askForKey() {
  $("#key").hidden = false;
  $("#key-field").focus();
}

async function loadModel() {
  try {
    const response = await session.fetch("/v1/models/current");
    if (response.status === 401) return askForKey();
    if (!response.ok) throw new Error(String(response.status));
    state.model = await response.json();
    render();
  } catch {
    setTimeout(loadModel, 3000);
  }
}

for (const photo of photos) {
  photo.input.addEventListener("change", () => photo.input.files[0] && choose(photo, photo.input.files[0]));
  $("img", photo.element).addEventListener("error", (event) => {
    if (event.target.src !== photo.url) return; // an earlier photo
    photo.broken = true;
    render();
  });
  for (const name of ["dragenter", "dragover"])
    photo.element.addEventListener(name, (event) => { event.preventDefault(); photo.element.classList.add("over"); });
  photo.element.addEventListener("dragleave", () => photo.element.classList.remove("over"));
  photo.element.addEventListener("drop", (event) => {
    event.preventDefault();
    photo.element.classList.remove("over");
    const [file, second] = event.dataTransfer.files;
    if (file) choose(photo, file);
    const other = photos[1 - photo.index];
    if (second && !other.file) choose(other, second);
  });
}
document.addEventListener("paste", (event) => {
  const file = event.clipboardData?.files[0];
  if (file) choose(photos.find((photo) => !photo.file) ?? photos[1], file);
});
// A photo dropped beside the frames must not replace the page.
for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
for (const button of document.querySelectorAll("[data-language]"))
  button.addEventListener("click", () => setLanguage(button.dataset.language));
$("#compare").addEventListener("submit", (event) => { event.preventDefault(); if (!$("#go").disabled) compare(); });
$("#compare").addEventListener("reset", () => { for (const photo of photos) choose(photo, null); $("#file1").focus(); });
$("#key").addEventListener("submit", (event) => {
  event.preventDefault();
  session.use($("#key-field").value.trim());
  $("#key-field").value = "";
  $("#key").hidden = true;
  state.problem = null;
  render();
  loadModel();
});
render();
loadModel();
