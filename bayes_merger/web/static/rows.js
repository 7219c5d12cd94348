// The table of trials: rows come one by one and take their places, as the person has sorted and filtered it.
// Thousands of rows cost nothing while nobody sees them, since each is laid out alone: see study.css.

const CHUNK = 100; // rows a frame
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
}

function work() {
  const body = table()?.tBodies[0];
  if (body) {
    const made = document.createElement("tbody");
    const some = waiting.splice(0, CHUNK);
    made.innerHTML = some.map(([, html]) => html).join("");
    const head = table().querySelector("[aria-sort]");
    const order = head && { column: head.cellIndex, down: head.ariaSort === "descending" };
    const wanted = document.getElementById("filter").value.toLowerCase();
    [...made.rows].forEach((row, index) => {
      row.hidden = wanted !== "" && !row.textContent.toLowerCase().includes(wanted);
      put(body, some[index][0], row, order);
    });
    if (moved && !waiting.length && head) globalThis.sort(head, order.down);
    moved &&= waiting.length > 0;
  }
  if (waiting.length) requestAnimationFrame(work);
}

let moved = false; // rows whose values are others now, so that they may stand in a wrong place

// All rows change whenever more is known of them: most stay where they are
function put(body, trial, row, order) {
  const { valueIn, compare } = globalThis; // report.js
  const before = rows.get(trial);
  rows.set(trial, row);
  if (before) {
    moved ||= order && valueIn(row, order.column) !== valueIn(before, order.column);
    before.replaceWith(row);
    return;
  }
  const own = order && valueIn(row, order.column);
  const comes = (other) => compare(own, valueIn(other, order.column), order.down) < 0;
  const last = body.lastElementChild;
  body.insertBefore(row, order && last && comes(last) ? first(body.rows, comes) : null);
}

// Of sorted rows, the first of which something is true that is true of all that follow
function first(sorted, is) {
  let low = 0, high = sorted.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (is(sorted[middle])) high = middle;
    else low = middle + 1;
  }
  return sorted[low];
}
