"use strict";
// The list works without this: it is for people's comfort alone.

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-all]")) {
    for (const box of document.querySelectorAll("input[name=id]")) box.checked = event.target.checked;
  }
});
