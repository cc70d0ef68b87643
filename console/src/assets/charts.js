"use strict";
// The values of the bar that the reader points at, or moves to with the arrow keys; they are those of the chart's table.

const readouts = new WeakMap();

const readoutOf = (plot) => {
  if (!readouts.has(plot)) {
    const readout = document.createElement("div");
    readout.className = "readout";
    readout.setAttribute("role", "status");
    const cursor = document.createElement("div");
    cursor.className = "cursor";
    readout.hidden = cursor.hidden = true;
    plot.append(cursor, readout);
    readouts.set(plot, { readout, cursor, place: -1 });
  }
  return readouts.get(plot);
};

const rowsOf = (plot) => [...plot.closest("figure").querySelectorAll("tbody tr")].reverse();

const showBar = (plot, place) => {
  const rows = rowsOf(plot);
  if (rows.length === 0) return;
  const state = readoutOf(plot);
  state.place = Math.min(Math.max(place, 0), rows.length - 1);
  const names = [...plot.closest("figure").querySelectorAll("thead th")].map((cell) => cell.textContent);
  const cells = [...rows[state.place].children].map((cell) => cell.textContent.trim());
  const lines = cells.map((text, n) => {
    const line = document.createElement("div");
    line.textContent = n === 0 ? text : `${names[n]} ${text}`;
    return line;
  });
  state.readout.replaceChildren(...lines);
  state.readout.hidden = state.cursor.hidden = false;
  const bars = plot.querySelector("svg").getBoundingClientRect();
  const frame = plot.getBoundingClientRect();
  const width = bars.width / rows.length;
  const left = bars.left - frame.left + width * state.place;
  Object.assign(state.cursor.style, {
    left: `${left}px`, width: `${width}px`, top: `${bars.top - frame.top}px`, height: `${bars.height}px`,
  });
  const room = frame.width - state.readout.offsetWidth;
  const after = left + width + 8;
  const begin = after <= room ? after : Math.max(left - state.readout.offsetWidth - 8, 0);
  state.readout.style.left = `${Math.min(begin, Math.max(room, 0))}px`;
};

const hideBar = (plot) => {
  const { readout, cursor } = readoutOf(plot);
  readout.hidden = cursor.hidden = true;
};

const plotOf = (event) => (event.target instanceof Element ? event.target.closest(".plot") : null);

document.addEventListener("pointermove", (event) => {
  for (const other of document.querySelectorAll(".plot")) {
    if (other !== plotOf(event) && other !== document.activeElement) hideBar(other);
  }
  const plot = plotOf(event);
  if (!plot) return;
  const bars = plot.querySelector("svg").getBoundingClientRect();
  showBar(plot, Math.floor(((event.clientX - bars.left) / bars.width) * rowsOf(plot).length));
});

const MOVES = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };

document.addEventListener("keydown", (event) => {
  const plot = plotOf(event);
  if (!plot || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") return hideBar(plot);
  const move = MOVES[event.key];
  if (move === undefined) return;
  event.preventDefault();
  const { place } = readoutOf(plot);
  showBar(plot, place < 0 ? rowsOf(plot).length - 1 : place + move);
});

document.addEventListener("focusout", (event) => {
  const plot = plotOf(event);
  if (plot) hideBar(plot);
});

const enableCharts = () => {
  for (const plot of document.querySelectorAll(".plot")) {
    plot.tabIndex = 0;
    plot.setAttribute("role", "group");
    const title = plot.closest("figure").querySelector("h3").textContent;
    plot.setAttribute("aria-label", `Chart of ${title}; arrow keys show its values`);
  }
};
enableCharts();
document.addEventListener("htmx:afterSwap", enableCharts);
