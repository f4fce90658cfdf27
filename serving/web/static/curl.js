// A request as a curl command, for whoever wants a program to do what the page does. Placeholders stand for the key, the photos
// and people's names.
import { lastRequest } from "./session.js";
import { $, words, write } from "./shell.js";

// `fields` are those of the form: a name and whether it is a file; `json` is a body of JSON. The address is the service's as this
// browser knows it.
export function curl({ method, path, fields, keyed, json = null }) {
  const number = {};
  const forms = fields.map(([name, file]) => {
    number[name] = (number[name] ?? 0) + 1;
    const alone = fields.filter(([other]) => other === name).length === 1;
    return `-F ${name}=${file ? `@${name}${alone ? "" : number[name]}.jpg` : name.toUpperCase()}`;
  });
  return [
    method === "GET" || fields.length || (json && method === "POST") ? "curl" : `curl -X ${method}`,
    ...(keyed ? ['-H "Authorization: Bearer $EOLGUL_API_KEY"'] : []),
    ...forms,
    ...(json ? ["-H 'Content-Type: application/json'", `-d '${JSON.stringify(json)}'`] : []),
    `'${new URL("..", location.href).href.replace(/\/$/, "")}${path}'`,
  ].join(" \\\n  ");
}

// Show the tab's last request in the block of command.html; returns whether there is one.
export function drawCommand() {
  const request = lastRequest(), said = words();
  $(".command").hidden = !request;
  if (!request) return false;
  write("#curl", curl(request));
  write("#curl-where", [request.keyed ? said.keyPlaceholder : "", /@|NAME|PERSON/.test($("#curl").textContent) ? said.placeholders : ""].join(" ").trim());
  $("#copy").hidden = !navigator.clipboard; // browsers offer it over https only
  return true;
}

$("#copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("#curl").textContent);
    $("#copy").textContent = words().copied;
  } catch {
    getSelection().selectAllChildren($("#curl")); // the browser refuses: then it is selected at least
  }
});
