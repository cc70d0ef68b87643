"use strict";
// Everything works without this: it is for people's comfort alone.

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-all]")) {
    for (const box of document.querySelectorAll("input[name=id]")) box.checked = event.target.checked;
  }
});

// What somebody is reading by keyboard or has marked is not replaced under their hands, nor what nobody sees.
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
