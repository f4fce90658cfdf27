// The API key, from #key=… in the address (removed at once) or from the form. It is kept as long as the tab is open.
const STORED = "eolgul.key";
let key = null;

// The characters that a key may have; fetch throws if a header has others.
const sendable = (text) => /^[\x21-\x7e]+$/.test(text);

// Use the text as the key if it could be one; returns whether it could.
export function use(text) {
  const wanted = text.trim();
  if (!sendable(wanted)) return false;
  key = wanted;
  try { sessionStorage.setItem(STORED, key); } catch { /* then it lasts until the page is left */ }
  return true;
}

// The pages lie one folder below the service's own address, which may have a prefix that a proxy takes off.
export function ask(path, options = {}) {
  return fetch(`..${path}`, key ? { ...options, headers: { ...options.headers, Authorization: `Bearer ${key}` } } : options);
}

try { key = sessionStorage.getItem(STORED); } catch { /* storage may be forbidden */ }
const given = new URLSearchParams(location.hash.slice(1)).get("key");
if (given !== null) history.replaceState(null, "", location.pathname + location.search);
export const unusable = given !== null && !use(given);
