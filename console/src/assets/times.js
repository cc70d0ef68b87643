"use strict";
// Times in the reader's zone. Pages have them in UTC, and pointing at one shows that.

const ZONE_KEY = "outbox-zone";
const pad = (number) => String(number).padStart(2, "0");
const isUtc = () => stored(ZONE_KEY) === "utc";
const zoneName = () => (isUtc() ? "UTC" : Intl.DateTimeFormat().resolvedOptions().timeZone || "local time");

// The parts of a time as the reader's clock shows them.
const partsOf = (date) =>
  isUtc()
    ? [date.getUTCFullYear(), date.getUTCMonth() + 1, date.getUTCDate(), date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds()]
    : [date.getFullYear(), date.getMonth() + 1, date.getDate(), date.getHours(), date.getMinutes(), date.getSeconds()];

const shown = (date, kind) => {
  const [year, month, day, hour, minute, second] = partsOf(date).map(pad);
  if (kind === "clock") return `${hour}:${minute}`;
  if (kind === "day") return `${month}-${day}`;
  return `${year}-${month}-${day} ${hour}:${minute}:${second}${isUtc() ? " UTC" : ""}`;
};

const showTimes = (root) => {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const date = new Date(time.dateTime);
    if (!Number.isNaN(date.getTime())) time.textContent = shown(date, time.dataset.show);
  }
};

// A field for date and time has the reader's time; its form sends UTC.
const showFields = () => {
  for (const label of document.querySelectorAll("[data-zone]")) label.textContent = ` (${zoneName()})`;
  for (const field of document.querySelectorAll("input[data-utc]")) {
    const date = new Date(`${field.dataset.utc}Z`);
    if (Number.isNaN(date.getTime())) continue;
    const [year, month, day, hour, minute, second] = partsOf(date).map(pad);
    field.value = `${year}-${month}-${day}T${hour}:${minute}:${second}`;
  }
};

document.addEventListener("formdata", (event) => {
  for (const field of event.target.querySelectorAll("input[data-utc]")) {
    const date = new Date(isUtc() ? `${field.value}Z` : field.value);
    if (field.value && !Number.isNaN(date.getTime())) event.formData.set(field.name, date.toISOString().slice(0, 19));
  }
  // Addresses have only the fields that say something.
  if (event.target.matches("[data-tidy]")) {
    for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
  }
});

const showZone = () => {
  const zone = document.getElementById("zone");
  if (!zone) return;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = isUtc() ? "Show my time zone" : "Show UTC";
  button.addEventListener("click", () => {
    store(ZONE_KEY, isUtc() ? "local" : "utc");
    showTimes(document);
    showFields();
    showZone();
  });
  // Who lives in UTC has no choice.
  const hasChoice = isUtc() || new Date().getTimezoneOffset() !== 0 || zoneName() !== "UTC";
  zone.replaceChildren(`Times are in ${zoneName()}. `, ...(hasChoice ? [button] : []));
};

showTimes(document);
showFields();
showZone();
document.addEventListener("htmx:afterSwap", () => showTimes(document));
