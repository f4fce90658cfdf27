// The API for whoever writes a program: the last request of this tab as a command, and every operation of the OpenAPI document.
import { curl, drawCommand } from "./curl.js";
import { $, element, page, sentence, shell, words, write } from "./shell.js";

let described = null, failed = false;

function draw() {
  $("#nothing-asked").hidden = drawCommand();
  $("#undescribed").hidden = !failed;
  write("#undescribed", sentence("offline"));
  if (described && !$("#operations").children.length) $("#operations").append(...described.tags.map(group));
  for (const place of document.querySelectorAll("#operations [data-said]")) {
    write(place, words()[place.dataset.said]);
    place.lang = shell.language; // the document is English
  }
}

function group(tag) {
  const section = element("section", { class: "card operations", "aria-labelledby": `tag-${tag.name}` });
  section.append(element("h2", { id: `tag-${tag.name}` }, tag.name), element("p", { class: "soft" }, tag.description));
  for (const [path, methods] of Object.entries(described.paths))
    for (const [method, operation] of Object.entries(methods))
      if (operation.tags?.includes(tag.name)) section.append(shown(path, method.toUpperCase(), operation));
  return section;
}

function shown(path, method, operation) {
  const details = element("details", { id: operation.operationId }), summary = element("summary");
  const [first, ...rest] = (operation.description ?? "").split("\n\n");
  const body = operation.requestBody?.content ?? {}, json = body["application/json"];
  const form = Object.entries(body["multipart/form-data"]?.schema.properties ?? {});
  const fields = form.map(([name, field]) => [name, (field.items ?? field).format === "binary"]);
  summary.append(
    element("strong", {}, operation.operationId),
    element("code", {}, `${method} ${path}`),
    prose("span", first, { class: "soft" }),
  );
  details.append(summary, ...rest.map((text) => prose("p", text)));
  const command = element("pre", { tabindex: "0", "aria-label": `curl ${operation.operationId}` }, curl({ method, path, fields, keyed: true, json: json?.example }));
  details.append(title("apiExample"), command);
  const asked = [...(operation.parameters ?? []).map((one) => [one.name, `${one.in}: ${one.description ?? kind(one.schema)}`]), ...form.map(([name, field]) => [name, field.description ?? kind(field)]), ...(json ? properties(json.schema) : [])];
  if (asked.length) details.append(title("apiFields"), list(asked));
  const [status, answer] = Object.entries(operation.responses)[0], schema = Object.values(answer.content ?? {})[0]?.schema;
  details.append(title("apiAnswer"), list(schema?.$ref ? properties(schema) : [[status, schema?.description ?? answer.description]]));
  return details;
}

// The fields of a schema, here or of the document, with what each means.
function properties(schema) {
  if (schema.$ref) return properties(described.components.schemas[schema.$ref.split("/").at(-1)]);
  return Object.entries(schema.properties ?? {}).map(([name, field]) => [name, [kind(field), field.description].filter(Boolean).join(": ")]);
}

function kind(field) {
  const named = field.$ref?.split("/").at(-1) ?? (field.enum ?? (field.const ? [field.const] : null))?.join(" | ");
  if (named) return named;
  if (field.anyOf) return field.anyOf.map(kind).join(" | ");
  return field.type === "array" ? `array of ${kind(field.items ?? {})}` : field.type ?? "any";
}

function list(rows) {
  const made = element("dl");
  for (const [name, text] of rows) made.append(element("dt", {}, name), prose("dd", text));
  return made;
}

function prose(name, text, attributes = {}) { // what the document has in backticks is code
  const made = element(name, attributes);
  made.append(...text.split("`").map((part, index) => (index % 2 ? element("code", {}, part) : part)));
  return made;
}

function title(word) {
  return element("h3", { "data-said": word, lang: shell.language }, words()[word]);
}

async function load() {
  try {
    const response = await fetch("../openapi.json");
    described = response.ok ? await response.json() : null;
  } catch { /* said below */ }
  failed = !described;
  draw();
  if (location.hash) $(`#${CSS.escape(location.hash.slice(1))}`)?.setAttribute("open", "");
}

page(draw);
load();
