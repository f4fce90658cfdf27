// The API key: from the address's #key=…, which is taken out at once, or typed. It lives as long as the tab.
const STORED = "eolgul.key";
let key = null;

// What a header may hold: fetch throws at other letters, and no key has any.
const sendable = (text) => /^[\x21-\x7e]+$/.test(text);

// Whether the text could be a key; it is used from now on if so.
export function use(text) {
  const wanted = text.trim();
  if (!sendable(wanted)) return false;
  key = wanted;
  try { sessionStorage.setItem(STORED, key); } catch { /* then it lasts until the page is left */ }
  return true;
}

export function ask(path, options = {}) {
  return fetch(path, key ? { ...options, headers: { ...options.headers, Authorization: `Bearer ${key}` } } : options);
}

try { key = sessionStorage.getItem(STORED); } catch { /* storage may be forbidden */ }
const given = new URLSearchParams(location.hash.slice(1)).get("key");
if (given !== null) history.replaceState(null, "", location.pathname + location.search);
export const unusable = given !== null && !use(given);
