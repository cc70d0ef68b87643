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

// Whether the reader's clock shows this time twice, because it is set back.
const comesTwice = (date) => {
  const offset = date.getTimezoneOffset();
  const day = 24 * 60 * 60 * 1000;
  return [-day, day].some((distance) => {
    const other = new Date(date.getTime() + distance).getTimezoneOffset();
    const twin = new Date(date.getTime() + (other - offset) * 60 * 1000);
    return other !== offset && twin.getTimezoneOffset() === other;
  });
};

// The distance of the reader's clock from UTC.
const offsetOf = (date) => {
  const minutes = -date.getTimezoneOffset();
  const size = Math.abs(minutes);
  return `${minutes < 0 ? "-" : "+"}${pad(Math.floor(size / 60))}:${pad(size % 60)}`;
};

const shown = (date, kind) => {
  const [year, month, day, hour, minute, second] = partsOf(date).map(pad);
  const zone = isUtc() || !comesTwice(date) ? "" : offsetOf(date);
  if (kind === "clock") return `${hour}:${minute}${zone}`;
  if (kind === "day") return `${month}-${day}`;
  return `${year}-${month}-${day} ${hour}:${minute}:${second}${isUtc() ? " UTC" : zone && ` ${zone}`}`;
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
    field.dataset.shown = field.value;
  }
};

// What a field says, in UTC. A field that the reader did not change says what it said before, also in an hour that comes twice.
const utcOf = (field) => {
  if (field.value === field.dataset.shown) return field.dataset.utc;
  const date = new Date(isUtc() ? `${field.value}Z` : field.value);
  return Number.isNaN(date.getTime()) ? field.value : date.toISOString().slice(0, 19);
};

document.addEventListener("formdata", (event) => {
  for (const field of event.target.querySelectorAll("input[data-utc]")) {
    event.formData.set(field.name, utcOf(field));
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
    for (const field of document.querySelectorAll("input[data-utc]")) field.dataset.utc = utcOf(field);
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
