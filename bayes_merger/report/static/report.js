"use strict";
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
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
}

// Hold the button or the space bar: every picture of the best merge is exchanged for that of model A.
const pairs = [...document.querySelectorAll(".shots")].flatMap((row) => {
  const [first, best] = [row.querySelector("img"), row.querySelector(".best img")];
  return first && best && first !== best ? [[best, best.src, first.src]] : [];
});
const blink = (on) => pairs.forEach(([image, own, other]) => { image.src = on ? other : own; });
const blinker = document.getElementById("blink");
if (blinker) {
  blinker.addEventListener("pointerdown", () => blink(true));
  for (const name of ["pointerup", "pointerleave", "pointercancel", "blur"]) {
    blinker.addEventListener(name, () => blink(false));
  }
  const typed = (event) => event.code === "Space" && !event.target.closest("input, summary, button:not(#blink), th");
  addEventListener("keydown", (event) => { if (typed(event)) { event.preventDefault(); blink(true); } });
  addEventListener("keyup", (event) => { if (typed(event)) { blink(false); } });
}

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const value = (row, column) => {
    const text = row.cells[column].dataset.value ?? row.cells[column].textContent;
    return text === "" ? null : Number.isNaN(Number(text)) ? text : Number(text);
  };
  const sort = (head) => {
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const other of table.tHead.rows[0].cells) { other.removeAttribute("aria-sort"); }
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].map((row) => [value(row, head.cellIndex), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) { return (a === null) - (b === null); }
      const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
      return down ? -order : order;
    });
    body.append(...rows.map(([, row]) => row));
  };
  for (const head of table.tHead.rows[0].cells) {
    head.tabIndex = 0;
    head.addEventListener("click", () => sort(head));
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") { sort(head); } });
  }
}

const filter = document.getElementById("filter");
if (filter) {
  filter.addEventListener("input", () => {
    const wanted = filter.value.toLowerCase();
    for (const row of document.querySelectorAll("#trials tbody tr")) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
  });
}
