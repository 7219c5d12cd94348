// The table of trials: rows come one by one and take their places, as the person has sorted and filtered it.
// Rows are laid out in groups, and a group only when it is near: see study.css.

const CHUNK = 50; // rows a frame
const GROUP = 100; // rows of a new group
const rows = new Map(); // trial -> its row
let waiting = []; // [trial, html]

const table = () => document.getElementById("trials");

// html: trial -> row
export function receive(html) {
  const idle = !waiting.length;
  waiting.push(...Object.entries(html));
  if (idle) requestAnimationFrame(work);
}

// The table itself is new: all its rows are put into it again
export function moveIn() {
  const fresh = table();
  if (!fresh) return;
  const widths = [...fresh.tHead.rows[0].cells].map(({ textContent, cellIndex, classList }) => {
    if (classList.contains("text")) return textContent === "why" ? 14 : 7;
    return cellIndex ? Math.max(9, textContent.length * 0.7 + 3) : 5;
  });
  fresh.style.setProperty("--columns", `${widths.slice(0, -1).map((width) => `${width}em`).join(" ")} 1fr`);
  fresh.style.setProperty("--width", `${widths.reduce((sum, width) => sum + width)}em`);
  fresh.tBodies[0].append(...rows.values());
  divide(fresh.tBodies[0]);
  measure();
}

// Into groups of which none is large
function divide(group) {
  for (let some = [...group.rows]; some.length > 2 * GROUP; some = some.slice(GROUP)) {
    const next = document.createElement("tbody");
    next.append(...some.slice(0, GROUP));
    group.before(next);
  }
}

// How much room a group takes that is far away; report.js has sorted or filtered before
function measure() {
  for (const group of table()?.tBodies ?? []) {
    group.style.setProperty("--rows", [...group.rows].filter((row) => !row.hidden).length);
  }
}
for (const name of ["input", "click", "keydown"]) {
  document.addEventListener(name, ({ target }) => { if (target.closest("#filter, #trials th")) measure(); });
}

function work() {
  const place = table();
  if (place) {
    const made = document.createElement("tbody");
    const some = waiting.splice(0, CHUNK);
    made.innerHTML = some.map(([, html]) => html).join("");
    const head = place.querySelector("[aria-sort]");
    const order = head && { column: head.cellIndex, down: head.ariaSort === "descending" };
    const wanted = document.getElementById("filter").value.toLowerCase();
    [...made.rows].forEach((row, index) => {
      row.hidden = wanted !== "" && !row.textContent.toLowerCase().includes(wanted);
      put(place, some[index][0], row, order);
    });
    if (moved && !waiting.length && head) globalThis.sort(head, order.down);
    moved &&= waiting.length > 0;
    measure();
  }
  if (waiting.length) requestAnimationFrame(work);
}

let moved = false; // rows whose values are others now, so that they may stand in a wrong place

// All rows change whenever more is known of them: most stay where they are
function put(place, trial, row, order) {
  const { valueIn, compare } = globalThis; // report.js
  const before = rows.get(trial);
  rows.set(trial, row);
  const own = order && valueIn(row, order.column);
  if (before) {
    moved ||= order && own !== valueIn(before, order.column);
    before.replaceWith(row);
    return;
  }
  const comes = (other) => order && other && compare(own, valueIn(other, order.column), order.down) < 0;
  const groups = [...place.tBodies];
  const group = groups.find(({ lastElementChild }) => comes(lastElementChild)) ?? groups.at(-1);
  group.insertBefore(row, comes(group.lastElementChild) ? [...group.rows].find(comes) : null);
  divide(group);
}
