"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const box = document.querySelector("dialog"), large = box.querySelector("img");
const cells = [...document.querySelectorAll("td button")];
let open = 0, timer = 0;

document.documentElement.style.setProperty("--ratio", data.ratio);
const cell = () => data.cells[cells[open].dataset.cell];
for (const button of cells) {
  const image = button.querySelector("img"), own = data.cells[button.dataset.cell];
  image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth <= 128), {once: true});
  image.src = data.pictures[own.picture];
}

large.addEventListener("load", () => large.classList.toggle("small", large.naturalWidth <= 128));
function show(unmerged) {
  large.src = data.pictures[unmerged ? cell().unmerged : cell().picture];
  large.alt = unmerged ? "model A" : cells[open].getAttribute("aria-label");
  box.querySelector("b").textContent = unmerged ? "unmerged: model A" : cells[open].getAttribute("aria-label");
}
function turn(number) {
  open = (number + cells.length) % cells.length;
  box.querySelector(".words").textContent = data.words[cell().words];
  show(false);
}
function blink(on) {
  clearInterval(timer);
  let unmerged = false;
  timer = on ? setInterval(() => show(unmerged = !unmerged), 600) : 0;
  box.querySelector("[data-do=blink]").setAttribute("aria-pressed", on);
  if (!on && box.open) { show(false); }
}
async function copy(button) {
  const text = data.recipes[cell().recipe];
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // a page of a file may not
    const area = document.createElement("textarea");
    area.value = text;
    box.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const before = button.textContent;
  button.textContent = "copied";
  setTimeout(() => { button.textContent = before; }, 1200);
}
const ACTIONS = {
  back: () => turn(open - 1), on: () => turn(open + 1), blink: () => blink(!timer), copy, close: () => box.close(),
};

addEventListener("click", ({target}) => {
  const button = target.closest("td button"), action = target.closest("[data-do]");
  if (button) {
    turn(cells.indexOf(button));
    box.showModal();
  } else if (action) {
    ACTIONS[action.dataset.do](action);
  } else if (target === box) {
    box.close();
  }
});
box.addEventListener("close", () => { blink(false); cells[open].focus(); });

// Hold the picture, or the space bar: the unmerged one is there instead.
large.addEventListener("pointerdown", () => show(true));
for (const name of ["pointerup", "pointercancel", "blur"]) {
  addEventListener(name, () => { if (box.open && !timer) { show(false); } });
}
addEventListener("keydown", (event) => {
  if (!box.open) { return; }
  const columns = cells[open].closest("tr").querySelectorAll("td").length;
  const steps = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns};
  if (event.code === "Space") {
    event.preventDefault();
    if (!event.repeat) { show(true); }
  } else if (event.code in steps) {
    event.preventDefault();
    turn(open + steps[event.code]);
  } else if (event.key === "b") {
    blink(!timer);
  }
});
addEventListener("keyup", ({code}) => { if (code === "Space" && box.open && !timer) { show(false); } });
document.getElementById("side").addEventListener("input", ({target}) => {
  document.documentElement.style.setProperty("--side", `${target.value}px`);
});
