// The scoring page: keys and fingers in, the view of the sitting out.

import { keyboard } from "./keys.js";
import { Pictures } from "./pictures.js";
import { Sitting } from "./sitting.js";
import { Stage } from "./stage.js";
import { countdown, points } from "./words.js";

const MESSAGE = 3000; // milliseconds that a message stays

const at = (id) => document.getElementById(id);
const page = at("page");
const button = (name) => document.querySelector(`[data-do="${name}"]`);
const address = (id, whole) => `${page.dataset.api}/pictures/${id}${whole ? "?size=whole" : ""}`;

const sitting = new Sitting(page.dataset.api);
const pictures = new Pictures();
const stage = new Stage(at("stage"), (id, whole) => pictures.get(address(id, whole)));

let view = null;
let trial = null; // the merge that is rated: the first that waits
let picture = null; // the one of its pictures that is looked at
let pair = null; // of the play-off, when all is rated
let since = 0; // when that came into sight
const on = { grid: false, compare: false, prompt: false, blink: false, half: false };

// What is looked at

function update() {
  view = sitting.view;
  const before = trial?.id;
  trial = view.trials[0] ?? null;
  if (trial?.id !== before) on.grid = trial?.unit === "trial";
  const next = (!trial && !view.playoff?.over && view.playoff?.pairs[0]) || null;
  if (next?.id !== pair?.id) since = performance.now();
  pair = next;
  look(trial?.pictures.find((one) => one.id === picture?.id) ?? unrated(0) ?? trial?.pictures[0] ?? null);
}

function look(at) {
  if (at?.id !== picture?.id) since = performance.now();
  picture = at;
  draw();
}

// The first picture from a place on that has no score
function unrated(from) {
  if (trial?.unit !== "picture") return null;
  return [...trial.pictures.slice(from), ...trial.pictures.slice(0, from)].find((one) => one.score === null) ?? null;
}

const rated = () => (trial?.unit === "trial" ? trial : picture);
const place = () => trial.pictures.findIndex((one) => one.id === picture.id);
const missing = () => (trial.unit === "trial" ? [trial] : trial.pictures).filter((one) => one.score === null).length;
const best = () => picture?.best; // the id of what it is compared with
const playing = () => !trial && Boolean(view?.playoff) && !view.playoff.over;
const took = () => Math.round(performance.now() - since);

// What the person does

function rate(score) {
  if (!trial || !sitting.up) return;
  const [of, what, ms] = [trial, picture, took()];
  score = Math.min(score + (on.half ? 0.5 : 0), 10);
  on.half = false;
  rated().score = score; // the next picture is shown now; the server hears of it meanwhile
  look(unrated(place() + 1) ?? picture);
  sitting.rate(of, what, score, ms);
  say(missing() ? points(score) : `${points(score)}. All rated: Enter, or look again`);
}

function confirm() {
  if (!sitting.up) return;
  if (playing()) return view.playoff.left ? askEnough() : sitting.crown();
  if (!trial) return;
  if (!missing()) return sitting.confirm(trial);
  if (trial.unit === "trial") return say("This merge has no score yet");
  look(unrated(place()));
  say(`${missing()} of ${trial.pictures.length} pictures have no score yet`);
}

function askEnough() {
  at("enough").querySelector("p").textContent = `${view.playoff.left} of ${view.playoff.total} pairs are left. The champion would be computed from the others.`;
  at("enough").showModal();
}

function prefer(side) {
  if (pair && sitting.up) sitting.prefer(pair, side, took());
}

function later() {
  if (!trial || !sitting.up) return;
  if (view.trials.length < 2) say("This is the only one that waits");
  else sitting.later(trial);
}

function step(by) {
  if (pair) prefer(by < 0 ? "left" : "right");
  if (trial) look(trial.pictures[(place() + by + trial.pictures.length) % trial.pictures.length]);
}

function blink(is) {
  if (is && !best() && !pair) say("There is no best merge yet");
  else on.blink = is;
  draw();
}

function toggle(what) {
  if (what === "compare" && !best()) return say("There is no best merge yet");
  if (what === "zoom") stage.zoom = !stage.zoom;
  else on[what] = !on[what];
  draw();
}

// Closes a dialog that is open. Its button may keep the focus until the next frame, and would get the next Enter
function answered(name) {
  const open = at(name).open;
  at(name).close();
  document.activeElement?.blur();
  return open;
}

const actions = {
  undo: () => sitting.up && sitting.undo(),
  later,
  void: () => trial && sitting.up && at("void").showModal(),
  broken: () => answered("void") && trial && sitting.up && sitting.void(trial),
  crown: () => answered("enough") && playing() && sitting.up && sitting.crown(),
  compare: () => toggle("compare"),
  blink: () => blink(!on.blink),
  zoom: () => toggle("zoom"),
  grid: () => trial && toggle("grid"),
  prompt: () => toggle("prompt"),
  half: () => toggle("half"),
  help: () => (at("help").open ? at("help").close() : at("help").showModal()),
  "prefer-left": () => prefer("left"),
  "prefer-right": () => prefer("right"),
  "prefer-neither": () => prefer("neither"),
  confirm,
};

// What is seen

function draw() {
  page.dataset.link = sitting.up ? "up" : "down";
  page.dataset.unsaved = sitting.unsaved;
  stage.show(scene());
  drawStrip();
  drawButtons();
  drawProgress();
  const [title, text] = notice();
  at("notice").hidden = !title;
  at("notice").children[0].textContent = title;
  at("notice").children[1].textContent = text;
  announce();
}

function scene() {
  const shown = pair?.left ?? picture;
  const prompt = (on.prompt && shown?.prompt) || "";
  if (pair) {
    const panes = [{ ...pair.left, caption: "A", alt: "A" }, { ...pair.right, caption: "B", alt: "B" }];
    return { panes: on.blink ? panes.reverse() : panes, prompt };
  }
  if (!picture) return {};
  if (on.grid) return { grid: trial.pictures, prompt };
  const panes = [{ ...picture, alt: picture.payload }];
  if (best() && (on.compare || on.blink)) panes.push({ ...picture, id: best(), caption: on.compare ? "best so far" : "", alt: "the best so far" });
  if (on.blink) panes.reverse();
  return { panes: on.compare ? panes : panes.slice(0, 1), prompt };
}

function announce() {
  const soon = [...view.trials.slice(0, 2).flatMap((one) => one.pictures), ...(view.playoff?.pairs ?? []).flatMap((one) => [one.left, one.right])];
  const ids = [...soon.map((one) => one.id), ...soon.map((one) => one.best).filter(Boolean)];
  const near = stage.zoom ? [picture?.id, best(), pair?.left.id, pair?.right.id].filter(Boolean) : [];
  pictures.announce([...ids.map((id) => address(id)), ...near.map((id) => address(id, true))]);
}

function drawStrip() {
  const strip = at("strip");
  const all = trial?.pictures ?? [];
  const shown = all.map((one) => one.id).join();
  if (strip.dataset.shown !== shown) {
    strip.dataset.shown = shown;
    strip.replaceChildren(...all.map(thumbnail));
  }
  all.forEach((one, index) => {
    const score = (trial.unit === "trial" ? trial : one).score;
    const thumb = strip.children[index];
    thumb.lastChild.textContent = score === null ? "" : points(score);
    thumb.setAttribute("aria-label", `Picture ${index + 1}, ${score === null ? "no score yet" : points(score)}`);
    thumb.toggleAttribute("aria-current", one.id === picture.id);
  });
}

function thumbnail(one) {
  const thumb = document.createElement("button");
  const image = new Image();
  image.src = address(one.id);
  image.alt = "";
  thumb.type = "button";
  thumb.append(image, document.createElement("b"));
  thumb.addEventListener("click", () => pick(one.id));
  return thumb;
}

function pick(id) {
  on.grid = false;
  look(trial.pictures.find((one) => one.id === id));
}

function drawButtons() {
  const score = rated()?.score ?? null;
  for (const each of document.querySelectorAll("[data-score]")) {
    const own = Number(each.dataset.score);
    const pressed = score !== null && Math.floor(score) === own;
    each.setAttribute("aria-pressed", pressed);
    each.firstChild.textContent = pressed ? points(score) : own;
    each.disabled = !trial || !sitting.up;
  }
  at("scores").hidden = playing();
  at("sides").hidden = !playing();
  for (const name of ["later", "void", "compare", "grid"]) button(name).hidden = playing();
  for (const name of ["later", "void", "grid", "half"]) button(name).disabled = !trial || !sitting.up;
  for (const name of ["left", "right", "neither"]) button(`prefer-${name}`).disabled = !pair || !sitting.up;
  for (const name of ["prompt", "zoom"]) button(name).disabled = !picture && !pair;
  button("undo").disabled = !sitting.up || !(trial || playing());
  button("compare").disabled = !best();
  button("blink").disabled = !best() && !pair;
  button("confirm").disabled = !sitting.up || !(trial || playing());
  button("confirm").classList.toggle("waits", Boolean(trial ? missing() : pair));
  button("confirm").firstChild.textContent = playing() ? "That is the champion" : "Next merge";
  for (const name of ["compare", "grid", "prompt", "half"]) button(name).setAttribute("aria-pressed", on[name]);
  button("zoom").setAttribute("aria-pressed", stage.zoom);
}

function drawProgress() {
  const { done, total, waiting, left, sd, playoff } = view;
  at("place").textContent = trial ? `Picture ${place() + 1} of ${trial.pictures.length}` : pair ? "Which is better?" : "";
  at("progress").max = (playing() ? playoff.total : total) || 1;
  at("progress").value = playing() ? playoff.total - playoff.left : done;
  const parts = playing() ? [`${playoff.left} of ${playoff.total} pairs left`] : [`${done} of ${total} merges`];
  if (left && !playing()) parts.push(countdown(left));
  if (!playing()) parts.push(`${waiting} waiting`);
  if (sd) parts.push(`you repeat yourself within ${sd.toFixed(1)}`);
  at("rest").textContent = parts.join(" · ");
  document.title = `${waiting ? `(${waiting}) ` : ""}Rate ${page.dataset.study}`;
}

function notice() {
  const name = page.dataset.typed;
  const over = view.over && !trial && !playing();
  if (!sitting.up && !over) return ["The server does not answer", "What you rated is kept here, and sent when it is back. Does  bayes-merger  still run?"];
  if (trial || pair) return ["", ""];
  if (playing() && view.playoff.left) return ["", ""]; // the next pairs are on their way
  if (playing()) return ["All compared", "Enter: the champion becomes the best merge. Until then U takes back."];
  if (over) return [view.playoff?.over ? "There is a champion" : "All rated", `Thank you. The best merge:  bayes-merger show ${name}`];
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
  const clicked = event.target.closest("button");
  if (!clicked || clicked.disabled) return;
  if (clicked.dataset.score) rate(Number(clicked.dataset.score));
  else if (clicked.dataset.do !== "blink" || event.detail === 0) actions[clicked.dataset.do]?.(); // a finger holds that one
  if (event.detail > 0 && !clicked.closest("dialog")) clicked.blur(); // Enter means the merge, not this button again
});

button("blink").addEventListener("pointerdown", () => blink(true));
for (const end of ["pointerup", "pointercancel", "pointerleave"]) {
  button("blink").addEventListener(end, () => on.blink && blink(false));
}
button("blink").addEventListener("contextmenu", (event) => event.preventDefault());

stage.addEventListener("pick", (event) => pick(event.detail));
stage.addEventListener("swipe", (event) => trial && step(event.detail));
stage.addEventListener("change", draw);

keyboard({ rate, step, blink, blinking: () => on.blink, ...actions });

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
