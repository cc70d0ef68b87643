"use strict";
// All pages work without this script; it adds convenience.

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-all]")) {
    for (const box of document.querySelectorAll("input[name=id]")) box.checked = event.target.checked;
  }
});

// No refresh of a part that has the focus, of a page with a selection, or of a hidden page.
document.addEventListener("htmx:beforeRequest", (event) => {
  const marked = document.getSelection()?.toString();
  if (document.hidden || marked || event.target.contains(document.activeElement)) event.preventDefault();
});

const showStale = (isStale) => () => {
  document.getElementById("stale").hidden = !isStale;
};
document.addEventListener("htmx:responseError", showStale(true));
document.addEventListener("htmx:sendError", showStale(true));
document.addEventListener("htmx:afterSwap", showStale(false));
