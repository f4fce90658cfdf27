// Shared by all pages: the language, the served model, the key form, and requests to the API.
import { ask, unusable, use } from "./session.js";
import { WORDS } from "./words.js";

export const $ = (selector, root = document) => root.querySelector(selector);
export const shell = { language: initialLanguage(), model: null, problem: null };
const PASSING = ["busy", "model_not_ready", "rate_limited", "timeout", "offline", "proxy_timeout", "proxy_unavailable", "internal"];
const renderers = [], starters = [];
let again = 0;
let keyProblem = unusable ? "keyCharacters" : "keyNeeded";

export const words = () => WORDS[shell.language];
export const sentence = (code) => words().problems[code] ?? words().problems.other;

export const passing = (code) => PASSING.includes(code); // the same request may succeed a moment later

// The reason why no model is shown; without a key that is unknown, and the key form says what to do.
export const missing = () => {
  const { problem } = shell;
  return !problem || !$("#key").hidden ? "" : problem.code === "model_not_ready" ? words().unloaded : sentence(problem.code);
};

// `draw` is called at every render; `start` at first and when a key is entered.
export function page(draw, start = () => {}) {
  renderers.push(draw);
  starters.push(start);
  render();
  loadModel();
  start();
}

export function render() {
  const said = words();
  document.documentElement.lang = shell.language;
  document.title = `eolgul · ${said[document.body.dataset.title]}`;
  speak(document);
  for (const button of document.querySelectorAll("[data-language]"))
    button.setAttribute("aria-pressed", String(button.dataset.language === shell.language));
  const { model } = shell;
  write("#key-said", said[keyProblem]);
  write("#model-line", model ? said.served(model.backbone, model.digest.slice(0, 12)) : $("#waiting") ? "" : missing()); // the page of the model has a place of its own
  $("#synthetic").hidden = !model?.synthetic;
  $("#report").hidden = !model?.report;
  for (const draw of renderers) draw(said);
}

// Change a text only if it differs: a screen reader would read it out again.
export function write(place, text) {
  const element = typeof place === "string" ? $(place) : place;
  if (element.textContent !== text) element.textContent = text;
}

// Fill the elements that have data-word (text) or data-label (accessible name).
export function speak(root) {
  const said = words();
  for (const element of root.querySelectorAll("[data-word]")) write(element, said[element.dataset.word]);
  for (const element of root.querySelectorAll("[data-label]")) element.setAttribute("aria-label", said[element.dataset.label]);
}

// Returns { answer } or { problem: { code, field } } and never throws. If a key is missing, the key form is shown.
export async function call(path, options) {
  try {
    const response = await ask(path, options);
    const body = await response.json().catch(() => null);
    if (body?.code === undefined && !response.ok) return { problem: { code: foreign(response.status) } };
    if (body === null) return { problem: { code: "proxy" } };
    if (response.status === 401) askForKey();
    return response.ok ? { answer: body } : { problem: body };
  } catch {
    return { problem: { code: "offline" } };
  }
}

// The reason for an answer that is not the service's own: something in front of it, such as an ingress, refused.
function foreign(status) {
  return { 413: "proxy_too_large", 502: "proxy_unavailable", 503: "proxy_unavailable", 504: "proxy_timeout" }[status] ?? "proxy";
}

// An answer names its model; if the page shows another one, the model was replaced.
export async function follow(answer) {
  if (answer.model !== shell.model?.digest) await loadModel();
}

export function element(name, attributes = {}, text = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

function askForKey(problem = keyProblem) {
  keyProblem = problem;
  write("#key-said", words()[problem]);
  if ($("#key").hidden) {
    $("#key").hidden = false;
    render();
    $("#key-field").focus();
  }
}

// Request the model again before the cookie for the report expires (five minutes), and sooner while there is no model.
async function loadModel() {
  clearTimeout(again);
  const { answer, problem } = await call("/v1/models/current");
  clearTimeout(again);
  if (problem?.code === "unauthorized") return; // the key form is shown
  again = setTimeout(loadModel, answer ? 240_000 : 3_000);
  shell.problem = problem ?? null;
  if (!answer) return render();
  if (answer.report) await ask("/ui/ticket").catch(() => null);
  shell.model = answer;
  render();
}

function initialLanguage() {
  let stored = null;
  try { stored = localStorage.getItem("eolgul.language"); } catch { /* storage may be forbidden */ }
  return WORDS[stored] ? stored : navigator.language.toLowerCase().startsWith("ko") ? "ko" : "en";
}

for (const button of document.querySelectorAll("[data-language]"))
  button.addEventListener("click", () => {
    shell.language = button.dataset.language;
    try { localStorage.setItem("eolgul.language", shell.language); } catch { /* then it is not remembered */ }
    render();
  });
$("#key").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = $("#key-field");
  if (!use(field.value)) return askForKey(field.value.trim() ? "keyCharacters" : "keyNeeded");
  keyProblem = "keyNeeded";
  field.value = "";
  $("#key").hidden = true;
  loadModel();
  for (const start of starters) start();
});
// A photo dropped outside the frames must not replace the page.
for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
