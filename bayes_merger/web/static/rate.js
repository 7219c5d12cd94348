// The scoring page: keys and fingers in, the view of the sitting out.

import { keyboard } from "./keys.js";
import { Pictures } from "./pictures.js";
import { Sitting } from "./sitting.js";
import { Stage } from "./stage.js";
import { countdown, points } from "./words.js";

const MESSAGE = 3000; // milliseconds that a message stays

const at = (id) => document.getElementById(id);
const page = at("page");
const sitting = new Sitting(page.dataset.api);
const pictures = new Pictures();
const stage = new Stage(at("stage"), (id, whole) =>
  pictures.get(`${page.dataset.api}/pictures/${id}${whole ? "?size=whole" : ""}`));

let view = null;
let trial = null; // the merge that is rated: the first that waits
let picture = null; // the one of its pictures that is looked at
let since = 0; // when that came into sight
let half = false; // whether the next score gets half a point more

// What is looked at

function update() {
  view = sitting.view;
  const before = trial?.id;
  trial = view.trials[0] ?? null;
  if (trial?.id !== before) stage.grid = trial?.unit === "trial";
  const still = trial?.pictures.find((one) => one.id === picture?.id);
  look(still ?? next(0) ?? trial?.pictures[0] ?? null);
}

function look(at) {
  if (at?.id !== picture?.id) since = performance.now();
  picture = at;
  draw();
}

// The first picture from a place on that has no score
function next(from) {
  if (trial?.unit !== "picture") return null;
  const order = [...trial.pictures.slice(from), ...trial.pictures.slice(0, from)];
  return order.find((one) => one.score === null) ?? null;
}

const place = () => trial.pictures.findIndex((one) => one.id === picture.id);
const missing = () => (trial.unit === "trial" ? Number(trial.score === null) : trial.pictures.filter((one) => one.score === null).length);

// What the person does

const ready = () => trial && sitting.up;

function rate(score) {
  if (!ready()) return;
  const rated = trial.unit === "trial" ? trial : picture;
  score = Math.min(score + (half ? 0.5 : 0), 10);
  setHalf(false);
  const index = place();
  rated.score = score; // before the server has it: the next picture is shown now
  const following = next(index + 1);
  const [of, what, ms] = [trial, picture, Math.round(performance.now() - since)];
  if (following) look(following);
  sitting.rate(of, what, score, ms);
  say(missing() ? `${points(score)}` : `${points(score)}. All rated: Enter, or look again`);
}

function confirm() {
  if (!ready()) return;
  if (missing() && trial.unit === "trial") return say("This merge has no score yet");
  if (missing()) {
    look(next(place()));
    return say(`${missing()} of ${trial.pictures.length} pictures have no score yet`);
  }
  sitting.confirm(trial);
}

function later() {
  if (!ready()) return;
  if (view.trials.length < 2) return say("This is the only one that waits");
  sitting.later(trial);
}

function askVoid() {
  if (ready()) at("void").showModal();
}

function step(by) {
  if (!trial) return;
  look(trial.pictures[(place() + by + trial.pictures.length) % trial.pictures.length]);
}

function setHalf(on) {
  half = on;
  document.querySelector('[data-do="half"]').setAttribute("aria-pressed", on);
}

const actions = {
  undo: () => ready() && sitting.undo(),
  later,
  void: askVoid,
  compare: () => (best() ? toggle("compare") : say("There is no best merge yet")),
  blink: () => blink(!stage.blink),
  zoom: () => toggle("zoom"),
  grid: () => toggle("grid"),
  prompt: () => toggle("prompt"),
  half: () => setHalf(!half),
  help: () => (at("help").open ? at("help").close() : at("help").showModal()),
  confirm,
};

const best = () => picture?.best;

function toggle(what) {
  stage[what] = !stage[what];
  draw();
}

function blink(on) {
  if (on && !best()) return say("There is no best merge yet");
  stage.blink = on;
  draw();
}

// What is seen

function draw() {
  page.dataset.link = sitting.up ? "up" : "down";
  page.dataset.unsaved = sitting.unsaved;
  stage.show(trial, picture);
  drawStrip();
  drawScores();
  drawProgress();
  drawNotice();
  const soon = view.trials.slice(0, 2).flatMap((one) => one.pictures);
  pictures.announce([
    ...soon.map((one) => `${page.dataset.api}/pictures/${one.id}`),
    ...soon.filter((one) => one.best).map((one) => `${page.dataset.api}/pictures/${one.best}`),
    ...(stage.zoom && picture ? [picture.id, best()].filter(Boolean).map((id) => `${page.dataset.api}/pictures/${id}?size=whole`) : []),
  ]);
}

function drawStrip() {
  const strip = at("strip");
  const shown = trial ? trial.pictures.map((one) => one.id).join() : "";
  if (strip.dataset.shown !== shown) {
    strip.dataset.shown = shown;
    strip.replaceChildren(...(trial?.pictures ?? []).map(thumbnail));
  }
  trial?.pictures.forEach((one, index) => {
    const button = strip.children[index];
    const score = trial.unit === "trial" ? trial.score : one.score;
    button.lastChild.textContent = score === null ? "" : points(score);
    button.setAttribute("aria-label", `Picture ${index + 1}, ${score === null ? "no score yet" : points(score)}`);
    button.toggleAttribute("aria-current", one.id === picture.id);
  });
}

function thumbnail(one) {
  const button = document.createElement("button");
  const image = new Image();
  image.src = `${page.dataset.api}/pictures/${one.id}`;
  image.alt = "";
  button.append(image, document.createElement("b"));
  button.type = "button";
  button.addEventListener("click", () => {
    stage.grid = false;
    look(trial.pictures.find((other) => other.id === one.id));
  });
  return button;
}

function drawScores() {
  const score = (trial?.unit === "trial" ? trial.score : picture?.score) ?? null;
  for (const button of document.querySelectorAll("[data-score]")) {
    const own = Number(button.dataset.score);
    button.setAttribute("aria-pressed", score !== null && Math.floor(score) === own);
    button.firstChild.textContent = score !== null && Math.floor(score) === own ? points(score) : own;
    button.disabled = !ready();
  }
  for (const name of ["undo", "later", "void", "grid", "prompt", "zoom", "confirm"]) {
    document.querySelector(`[data-do="${name}"]`).disabled = !ready();
  }
  for (const name of ["compare", "blink"]) document.querySelector(`[data-do="${name}"]`).disabled = !best();
  for (const name of ["compare", "zoom", "grid", "prompt"]) {
    document.querySelector(`[data-do="${name}"]`).setAttribute("aria-pressed", stage[name]);
  }
  document.querySelector('[data-do="confirm"]').classList.toggle("waits", Boolean(trial && missing()));
}

function drawProgress() {
  at("place").textContent = trial ? `Picture ${place() + 1} of ${trial.pictures.length}` : "";
  at("progress").max = Math.max(view.total, 1);
  at("progress").value = view.done;
  const parts = [`${view.done} of ${view.total} merges`, `${view.waiting} waiting`];
  if (view.left) parts.push(countdown(view.left));
  if (view.sd) parts.push(`you repeat yourself within ${view.sd.toFixed(1)}`);
  at("rest").textContent = parts.join(" · ");
  document.title = `${view.waiting ? `(${view.waiting}) ` : ""}Rate ${page.dataset.study}`;
}

function drawNotice() {
  const [title, text] = notice();
  at("notice").hidden = !title;
  at("notice").children[0].textContent = title;
  at("notice").children[1].textContent = text;
}

function notice() {
  const name = page.dataset.typed;
  if (!sitting.up) return ["The server does not answer", "What you rated is kept here, and sent when it is back. Does  bayes-merger  still run?"];
  if (trial) return ["", ""];
  if (view.over) return ["All rated", `Thank you. The best merge:  bayes-merger show ${name}`];
  if (view.running) return ["Nothing waits", "The next merge is being drawn. It appears here by itself."];
  return ["Nothing waits, and nothing is being drawn", `Go on with  bayes-merger resume ${name}`];
}

let silence = 0;
function say(text) {
  at("message").textContent = text;
  clearTimeout(silence);
  silence = setTimeout(() => (at("message").textContent = ""), MESSAGE);
}

// Ears

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || button.disabled) return;
  if (button.dataset.score) rate(Number(button.dataset.score));
  else if (button.dataset.do !== "blink" || event.detail === 0) actions[button.dataset.do]?.();
  if (event.detail > 0 && !button.closest("dialog")) button.blur(); // so that Enter means the merge, not this button again
});

const hold = document.querySelector('[data-do="blink"]');
hold.addEventListener("pointerdown", () => blink(true));
for (const end of ["pointerup", "pointercancel", "pointerleave"]) hold.addEventListener(end, () => stage.blink && blink(false));
hold.addEventListener("contextmenu", (event) => event.preventDefault());

at("void").addEventListener("close", () => {
  if (at("void").returnValue === "void" && ready()) sitting.void(trial);
  at("void").returnValue = "";
});

stage.addEventListener("pick", (event) => {
  stage.grid = false;
  look(trial.pictures.find((one) => one.id === event.detail));
});
stage.addEventListener("swipe", (event) => step(event.detail));
stage.addEventListener("change", draw);

keyboard({ rate: (score) => rate(score), step, blink, blinking: () => stage.blink, ...actions });

sitting.addEventListener("change", (event) => {
  update();
  const { undone } = event.detail;
  if (undone === undefined) return;
  const about = trial?.pictures.find((one) => one.id === undone);
  if (about) look(about);
  say(undone === null ? "Nothing to undo; what is confirmed stays" : "Undone");
});
sitting.addEventListener("refused", (event) => say(event.detail));
sitting.start();
