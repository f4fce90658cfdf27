// What the tab keeps: the API key, from #key=… in the address (removed at once) or from the form, and the last request, without
// photos, keys and people's names.
const KEY = "eolgul.key", REQUEST = "eolgul.request";
const BY_ITSELF = ["/v1/detect", "/v1/models/current", "/v1/people?"]; // the page asks these without being told to
let key = null;

// The characters that a key may have; fetch throws if a header has others.
const sendable = (text) => /^[\x21-\x7e]+$/.test(text);

// Use the text as the key if it could be one; returns whether it could.
export function use(text) {
  const wanted = text.trim();
  if (!sendable(wanted)) return false;
  key = wanted;
  keep(KEY, key);
  return true;
}

// The pages lie one folder below the service's own address, which may have a prefix that a proxy takes off.
export function ask(path, options = {}) {
  remember(path, options);
  return fetch(`..${path}`, key ? { ...options, headers: { ...options.headers, Authorization: `Bearer ${key}` } } : options);
}

function remember(path, { method = "GET", body }) {
  if (!path.startsWith("/v1/") || BY_ITSELF.some((one) => path.startsWith(one))) return;
  const nameless = path.replace(/^(\/v1\/people\/)[^/?]+/, "$1NAME");
  const fields = body ? [...body].map(([name, value]) => [name, value instanceof File]) : [];
  keep(REQUEST, JSON.stringify({ method, path: nameless, fields, keyed: key !== null }));
}

// { method, path, fields, keyed }; a field is its name and whether it is a file. Null if nothing was asked yet.
export const lastRequest = () => JSON.parse(kept(REQUEST));

function keep(name, value) {
  try { sessionStorage.setItem(name, value); } catch { /* storage may be forbidden: then it lasts until the page is left */ }
}

function kept(name) {
  try { return sessionStorage.getItem(name); } catch { return null; }
}

key = kept(KEY);
const given = new URLSearchParams(location.hash.slice(1)).get("key");
if (given !== null) history.replaceState(null, "", location.pathname + location.search);
export const unusable = given !== null && !use(given);
