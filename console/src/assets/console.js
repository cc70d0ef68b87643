"use strict";
// All pages work without these scripts; they add convenience.

// Browsers may refuse to store anything; then a choice holds for this page alone.
const unstored = new Map();
const stored = (key) => {
  if (unstored.has(key)) return unstored.get(key);
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
};
const store = (key, value) => {
  try {
    localStorage.setItem(key, value);
  } catch {
    unstored.set(key, value);
  }
};

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-all]")) {
    for (const box of document.querySelectorAll("input[name=id]")) box.checked = event.target.checked;
  }
});

// No refresh of a part that has the focus or the pointer on a chart, of a page with a selection, or of a hidden page.
document.addEventListener("htmx:beforeRequest", (event) => {
  const marked = document.getSelection()?.toString();
  const isRead = event.target.contains(document.activeElement) || event.target.querySelector(".plot:hover");
  if (document.hidden || marked || isRead) event.preventDefault();
});

// What the reader has unfolded stays so.
let unfolded = [];
document.addEventListener("htmx:beforeSwap", (event) => {
  unfolded = [...event.target.querySelectorAll("details[open][id]")].map((details) => details.id);
});
document.addEventListener("htmx:afterSwap", () => {
  for (const id of unfolded) document.getElementById(id)?.setAttribute("open", "");
});

const showStale = (isStale) => () => {
  document.getElementById("stale").hidden = !isStale;
};
document.addEventListener("htmx:responseError", showStale(true));
document.addEventListener("htmx:sendError", showStale(true));
document.addEventListener("htmx:afterSwap", showStale(false));
