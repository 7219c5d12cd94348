"use strict";
// Everything is heard at the document: the parts of a live page are exchanged while it is open.
addEventListener("click", async ({target}) => {
  const button = target.closest("[data-copy]");
  if (!button) { return; }
  const text = document.getElementById(button.dataset.copy).textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // a page of a file, or without https, may not
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const before = button.textContent;
  button.textContent = "copied";
  setTimeout(() => { button.textContent = before; }, 1200);
});

// Hold the button or the space bar: every picture of the best merge is exchanged for that of model A.
let held = [];
function release() {
  for (const [image, own] of held) { image.src = own; }
  held = [];
}
function hold() {
  release();
  held = [...document.querySelectorAll(".shots")].flatMap((row) => {
    const [first, best] = [row.querySelector("img"), row.querySelector(".best img")];
    return first && best && first !== best ? [[best, best.src, first.src]] : [];
  });
  for (const [image, , other] of held) { image.src = other; }
}
addEventListener("pointerdown", ({target}) => { if (target.closest("#blink")) { hold(); } });
for (const name of ["pointerup", "pointercancel", "blur"]) { addEventListener(name, release); }
const blinks = ({code, target}) =>
  code === "Space" && document.getElementById("blink") && !target.closest("input, summary, button:not(#blink), th");
addEventListener("keydown", (event) => {
  if (blinks(event)) {
    event.preventDefault();
    if (!event.repeat) { hold(); }
  }
});
addEventListener("keyup", (event) => { if (blinks(event)) { release(); } });

function valueIn(row, column) {
  const cell = row.cells[column], text = cell.dataset.value ?? cell.textContent;
  return text === "" ? null : Number.isNaN(Number(text)) ? text : Number(text);
}
function compare(a, b, down) {  // nothing comes last, either way
  if (a === null || b === null) { return (a === null) - (b === null); }
  const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  return down ? -order : order;
}
function sort(head, down) {
  const table = head.closest("table"), groups = [...table.tBodies].map((group) => [group, [...group.rows]]);
  for (const other of table.tHead.rows[0].cells) { other.removeAttribute("aria-sort"); }
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = groups.flatMap(([, own]) => own).map((row) => [valueIn(row, head.cellIndex), row]);
  rows.sort(([a], [b]) => compare(a, b, down));
  for (const [group, own] of groups) { group.append(...rows.splice(0, own.length).map(([, row]) => row)); }
}
const headOf = (event) => event.target.closest("table.sortable th");
const turned = (head) => sort(head, head.getAttribute("aria-sort") !== "descending");
addEventListener("click", (event) => { if (headOf(event)) { turned(headOf(event)); } });
addEventListener("keydown", (event) => { if (event.key === "Enter" && headOf(event)) { turned(headOf(event)); } });

addEventListener("input", ({target}) => {
  if (target.id !== "filter") { return; }
  const wanted = target.value.toLowerCase();
  for (const row of document.querySelectorAll("#trials tbody tr")) {
    row.hidden = !row.textContent.toLowerCase().includes(wanted);
  }
});
