"use strict";
// The keyboard: one key for each page and for each thing that is often done. It can be switched off.

const KEYS_KEY = "outbox-keys";
const KEYS = [
  ["/", "Search for events"],
  ["g o", "Overview"],
  ["g e", "Events"],
  ["g c", "Consumers"],
  ["g a", "Changes"],
  ["g d", "Doctor"],
  ["j, k", "Next and previous row"],
  ["Enter", "Open the row"],
  ["x", "Select the row"],
  ["n", "Next page of a list"],
  ["r", "Reload"],
  ["?", "This list"],
];
const PAGES = { o: "/", e: "/events", c: "/consumers", a: "/audit", d: "/doctor" };
let wasG = false;
let row = -1;

const areOn = () => stored(KEYS_KEY) !== "off";
const pageLink = (path) => document.querySelector(`header nav a[data-page="${path}"]`);
const rows = () => [...document.querySelectorAll("main > form tbody tr, main > .wide tbody tr")];

const moveTo = (place) => {
  const all = rows();
  if (all.length === 0) return;
  row = Math.min(Math.max(place, 0), all.length - 1);
  for (const other of all) other.classList.toggle("current", other === all[row]);
  // The link has the focus, so Enter opens it.
  (all[row].querySelector("a[href]") ?? all[row]).focus();
  all[row].scrollIntoView({ block: "nearest" });
};

const dialog = () => {
  const known = document.getElementById("keys");
  if (known) return known;
  const made = document.createElement("dialog");
  made.id = "keys";
  made.setAttribute("aria-labelledby", "keys-title");
  const title = document.createElement("h2");
  title.id = "keys-title";
  title.textContent = "Keyboard";
  const list = document.createElement("dl");
  for (const [key, meaning] of KEYS) {
    const term = document.createElement("dt");
    term.append(Object.assign(document.createElement("kbd"), { textContent: key }));
    list.append(term, Object.assign(document.createElement("dd"), { textContent: meaning }));
  }
  const toggle = Object.assign(document.createElement("input"), { type: "checkbox", checked: areOn() });
  toggle.addEventListener("change", () => store(KEYS_KEY, toggle.checked ? "on" : "off"));
  const label = document.createElement("label");
  label.className = "choice";
  label.append(toggle, "Use these keys");
  const close = Object.assign(document.createElement("button"), { type: "button", textContent: "Close" });
  close.addEventListener("click", () => made.close());
  made.append(title, list, label, close);
  document.body.append(made);
  return made;
};

const ACTIONS = {
  "/": () => {
    const field = document.querySelector("input[type=search]");
    if (field) field.focus();
    else pageLink("/events")?.click();
  },
  j: () => moveTo(row + 1),
  k: () => moveTo(row - 1),
  x: () => rows()[row]?.querySelector("input[type=checkbox]")?.click(),
  n: () => document.querySelector("a[rel=next]")?.click(),
  r: () => location.reload(),
  "?": () => dialog().showModal(),
};

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input:not([type=checkbox]), select, textarea") || document.querySelector("dialog[open]");
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || !areOn()) return;
  const page = wasG ? pageLink(PAGES[event.key]) : null;
  const action = page ? () => page.click() : ACTIONS[event.key];
  wasG = event.key === "g" && !wasG;
  if (!action) return;
  event.preventDefault();
  action();
});

const footer = document.getElementById("zone")?.parentElement;
if (footer) {
  const button = Object.assign(document.createElement("button"), { type: "button", id: "show-keys", textContent: "Keyboard" });
  button.addEventListener("click", () => dialog().showModal());
  footer.append(button);
}
