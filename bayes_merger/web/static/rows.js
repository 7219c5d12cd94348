// The table of trials: rows come one by one and take their places, as the person has sorted and filtered it.
// Thousands of rows cost nothing while nobody sees them, since each is laid out alone: see study.css.

const CHUNK = 200; // rows a frame
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
    if (classList.contains("text")) return textContent === "why" ? "minmax(14em, 1fr)" : "7em";
    return cellIndex ? `${Math.max(9, textContent.length * 0.7 + 3)}em` : "5em";
  });
  fresh.style.setProperty("--columns", widths.join(" "));
  fresh.tBodies[0].append(...rows.values());
}

function work() {
  const body = table()?.tBodies[0];
  if (body) {
    const made = document.createElement("tbody");
    const some = waiting.splice(0, CHUNK);
    made.innerHTML = some.map(([, html]) => html).join("");
    [...made.rows].forEach((row, index) => put(body, some[index][0], row));
  }
  if (waiting.length) requestAnimationFrame(work);
}

function put(body, trial, row) {
  rows.get(trial)?.remove();
  rows.set(trial, row);
  const head = table().querySelector("[aria-sort]");
  const wanted = document.getElementById("filter").value.toLowerCase();
  row.hidden = !row.textContent.toLowerCase().includes(wanted);
  body.insertBefore(row, head ? after(body, head, row) : null);
}

// The first row that comes after this one; report.js says in which order
function after(body, head, row) {
  const { valueIn, compare } = globalThis;
  const column = head.cellIndex, down = head.ariaSort === "descending", own = valueIn(row, column);
  let low = 0, high = body.rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compare(own, valueIn(body.rows[middle], column), down) < 0) high = middle;
    else low = middle + 1;
  }
  return body.rows[low] ?? null;
}
