"use strict";
// The API key: from the address's #key=…, which is taken out at once, or typed. It lives as long as the tab.
const session = (() => {
  let key = null;
  const store = (value) => {
    key = value;
    try { sessionStorage.setItem("eolgul.key", value); } catch { /* then it lasts until the page is left */ }
  };
  try { key = sessionStorage.getItem("eolgul.key"); } catch { /* storage may be forbidden */ }
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (given) {
    store(given.trim());
    history.replaceState(null, "", location.pathname + location.search);
  }
  return {
    use: store,
    fetch: (path, options = {}) => fetch(path, key ? { ...options, headers: { Authorization: `Bearer ${key}` } } : options),
  };
})();
