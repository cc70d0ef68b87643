"use strict";
// A button that copies for each text that is worth it.

const copyText = async (text) => {
  // Pages without TLS, except those of this machine, have no clipboard.
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  if (!isCopied) throw new Error("the browser does not allow it");
};

// Says the outcome to readers who do not see the button.
const outcome = document.createElement("p");
outcome.className = "unseen";
outcome.id = "copied";
outcome.setAttribute("role", "status");
document.body.append(outcome);

const copyButton = (source) => {
  const what = source.id || source.textContent.slice(0, 60);
  const button = Object.assign(document.createElement("button"), { type: "button", className: "copy" });
  const label = Object.assign(document.createElement("span"), { textContent: "Copy" });
  // What it copies is a part of its name; what is seen is said as well.
  button.append(label, Object.assign(document.createElement("span"), { className: "unseen", textContent: ` ${what}` }));
  const say = (word) => {
    label.textContent = word;
    outcome.textContent = word === "Copy" ? "" : `${word} ${what}`;
  };
  button.addEventListener("click", async () => {
    try {
      await copyText(source.textContent);
      say("Copied");
    } catch {
      say("Not copied");
    }
    setTimeout(() => say("Copy"), 2000);
  });
  return button;
};

const addCopyButtons = () => {
  for (const source of document.querySelectorAll("[data-copy]")) {
    if (!source.nextElementSibling?.matches("button.copy")) source.after(copyButton(source));
  }
};
addCopyButtons();
document.addEventListener("htmx:afterSwap", addCopyButtons);
