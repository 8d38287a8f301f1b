"use strict";
// The key stays in this tab: it is sent to this site only, and is gone when the tab is closed.
const KEY = "flock-ray-key";
const at = (id) => document.getElementById(id);
const made = (tag, text = "", properties = {}) => Object.assign(document.createElement(tag), { textContent: text }, properties);
const say = (text) => { at("status").textContent = text; };

at("key").value = sessionStorage.getItem(KEY) ?? "";
at("key").addEventListener("change", () => sessionStorage.setItem(KEY, at("key").value.trim()));
at("forget").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  at("key").value = "";
  at("key").focus();
});

// Asks the API; an answer that is an error is thrown with what it says.
async function ask(path, options = {}) {
  const key = at("key").value.trim();
  if (!key) {
    at("key").focus();
    throw new Error("An API key is needed.");
  }
  sessionStorage.setItem(KEY, key);
  const headers = { "Authorization": `Bearer ${key}`, "Content-Type": "application/json" };
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached.");
  }
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    throw new Error(body?.error?.message ?? `The server says ${response.status}.`);
  }
  return response;
}

// An amount of wei, as text, in tokens: exact, since numbers lose digits.
function tokens(wei) {
  const [, sign, size] = String(wei).match(/^(-?)(.*)$/);
  const digits = size.padStart(19, "0");
  const decimals = digits.slice(-18).replace(/0+$/, "");
  return sign + digits.slice(0, -18) + (decimals ? `.${decimals}` : "");
}

// The same for people: rounded to four decimals, and below one token to four digits.
function rounded(wei) {
  const [, sign, size] = String(wei).match(/^(-?)(.*)$/);
  const step = 10n ** BigInt(Math.min(Math.max(size.length - 4, 0), 14));
  const [whole, ...decimals] = tokens((BigInt(size) + step / 2n) / step * step).split(".");
  return sign + [BigInt(whole).toLocaleString("en-US"), ...decimals].join(".");
}

// An element with an amount of wei: rounded, and all of its digits as its title.
const amount = (tag, wei) => made(tag, rounded(wei), { title: `${tokens(wei)} tokens` });
