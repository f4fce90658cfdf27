// The people enrolled by the key's tenant: find, enroll, export. Names are inserted into the page as text only, and are sent to
// the API only.
import { Frame } from "./frame.js";
import { People } from "./people.js";
import { rate } from "./rates.js";
import { ask } from "./session.js";
import { $, call, element, follow, page, render, sentence, words, write } from "./shell.js";

const MOST_PHOTOS = 10; // the API takes at most so many per request
const state = { unavailable: false, said: {}, found: null };
const wanted = new Frame(() => words().wantedPhoto, "image", { changed: forget });
const portraits = [];
const people = new People({ say, refuse, changed: forget });

// The message of each section, as a function of the words, since the language may change.
function say(section, text, wrong = false) {
  state.said[section] = { text, wrong };
  render();
}

function refuse(section, problem, scope) {
  state.unavailable = problem.code === "gallery_unavailable";
  if (state.unavailable) setTimeout(() => people.list(), 15_000);
  const text = () => problem.code === "forbidden" ? words().scopeMissing(scope)
    : problem.code === "unauthorized" ? "" // the form for the key says it
    : problem.field === "person" ? words().personRule
    : problem.reasons ? words().because(sentence(problem.code).replace(/\.$/, ""), problem.reasons.map((reason) => words().reasons[reason] ?? reason))
    : sentence(problem.code);
  say(section, text, true);
}

// --- identify

function forget() {
  state.found = null;
  delete state.said.identify;
  render();
}

async function identify() {
  const file = wanted.file, form = new FormData();
  form.append("image", file, "photo");
  state.found = null;
  say("identify", () => words().searching);
  const { answer, problem } = await call(`/v1/identify?k=${$("#k").value}`, { method: "POST", body: form });
  if (wanted.file !== file) return;
  if (problem && (problem.field === "image" || problem.code === wanted.fault)) { // said at the photo
    wanted.draw(null, problem);
    return say("identify", () => "");
  }
  if (problem) return refuse("identify", problem, "identify");
  await follow(answer);
  state.found = answer;
  say("identify", () => answer.people === 0 ? words().nobody
    : answer.face.reasons?.length ? `${words().because(wanted.name, answer.face.reasons.map((reason) => words().reasons[reason] ?? reason))} ${words().unfitFind}`
    : words().searched(answer.people, answer.templates_of_other_models));
}

function candidateRow(candidate) {
  const said = words(), row = element("li", { class: candidate.verdict });
  const bar = element("span", { class: "likeness", "aria-hidden": "true" });
  bar.append(element("span"));
  bar.firstChild.style.width = `${100 * Math.max(0, candidate.similarity)}%`;
  row.append(
    element("strong", { dir: "auto" }, candidate.person),
    element("span", { class: "chip" }, candidate.reasons?.length ? said.unfitShort : said[`${candidate.verdict}Short`]),
    element("span", { class: "number" }, `${said.similarity} ${candidate.similarity.toFixed(3)}`),
    bar,
    element("span", { class: "soft" }, candidate.false_match_rate === null ? ofTemplate(candidate) : rate(candidate, state.found.false_match_rate_floor)),
  );
  return row;
}

// What is wrong with the enrolled photo; the photo that was asked about is named once, above the list.
function ofTemplate({ reasons }) {
  const own = reasons.filter((one) => one.image === "template").map((one) => words().reasons[one.reason] ?? one.reason);
  return own.length ? words().because(words().unfitTemplate, own) : "";
}

// --- enroll

function portrait() {
  const number = () => portraits.indexOf(frame) + 1;
  const frame = new Frame(() => words().portrait(number()), "images", { changed: arrange, spill });
  frame.input.multiple = true;
  portraits.push(frame);
  $("#portraits").append(frame.element);
  return frame;
}

// One frame per photo, and an empty one for the next.
function arrange() {
  for (const frame of portraits.filter((one) => !one.file).slice(0, -1)) drop(frame);
  if (portraits.every((frame) => frame.file) && portraits.length < MOST_PHOTOS) portrait();
  delete state.said.enroll;
  render();
}

function drop(frame) {
  portraits.splice(portraits.indexOf(frame), 1);
  frame.discard();
}

function spill(files) {
  for (const file of files) portraits.find((frame) => !frame.file)?.choose(file);
}

async function enroll() {
  const chosen = portraits.filter((frame) => frame.file), form = new FormData();
  form.append("person", $("#person").value.trim());
  for (const frame of chosen) form.append("images", frame.file, "photo"); // the real file name may contain a person's name
  say("enroll", () => words().enrolling);
  const { answer, problem } = await call("/v1/enroll", { method: "POST", body: form });
  const atPhoto = (frame) => (problem.field === "images" ? frame.fault ?? frame.reasons.length : frame.fault === problem.code);
  if (problem && chosen.some(atPhoto)) return say("enroll", () => words().notEnrolled, true); // said at the photo
  if (problem) return refuse("enroll", problem, "enroll");
  $("#person").value = "";
  for (const frame of chosen) if (portraits.includes(frame)) frame.choose(null);
  say("enroll", () => words().enrolled(answer.person, answer.added, answer.templates_total));
  await people.list();
}

async function download() {
  try {
    const response = await ask("/v1/export");
    if (!response.ok) return refuse("people", await response.json(), "gallery, embed");
    const link = element("a", { download: "gallery.jsonl", href: URL.createObjectURL(await response.blob()) });
    link.click();
    URL.revokeObjectURL(link.href);
    say("people", () => words().exported);
  } catch {
    refuse("people", { code: "offline" });
  }
}

function draw() {
  $("#unavailable").hidden = !state.unavailable;
  write("#unavailable", sentence("gallery_unavailable"));
  $("#gallery").hidden = state.unavailable;
  for (const section of ["identify", "enroll", "people"]) {
    const said = state.said[section], place = $(`#${section}-said`);
    write(place, said?.text() ?? "");
    place.classList.toggle("wrong", Boolean(said?.wrong));
  }
  const { found } = state;
  wanted.draw(found?.face ?? null, undefined, Boolean(found));
  for (const frame of portraits) frame.draw();
  ready();
  $("#identify-said").classList.toggle("warn", Boolean(found?.face.reasons?.length));
  $("#found-synthetic").hidden = !found?.synthetic || !found.candidates.length;
  $("#candidates").replaceChildren(...(found?.candidates ?? []).map(candidateRow));
  people.draw();
}

function ready() {
  $("#find").disabled = !wanted.file;
  $("#keep").disabled = !$("#person").value.trim() || !portraits.some((frame) => frame.file);
}

$("#wanted").append(wanted.element);
portrait();
$("#person").addEventListener("input", ready);
$("#identify").addEventListener("submit", (event) => { event.preventDefault(); if (!$("#find").disabled) identify(); });
$("#enroll").addEventListener("submit", (event) => { event.preventDefault(); if (!$("#keep").disabled) enroll(); });
$("#export").addEventListener("click", download);
page(draw, () => people.list());
