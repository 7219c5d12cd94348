// The form that starts a run: made from the settings' own schema, checked by what composes them for the terminal.
import { get, post } from "./asking.js";

const find = (id) => document.getElementById(id);
const form = find("run");
const CHECK = 400, LOOK = 700; // milliseconds
const { fork } = form.dataset;
let defaults = {}, checks = 0, timer = 0;

function option(value, text = value) {
  return Object.assign(document.createElement("option"), { value, textContent: text });
}

function fill({ models, activations, methods, settings }) {
  const known = Object.fromEntries(settings.map((one) => [one.name, one]));
  defaults = Object.fromEntries(settings.map((one) => [one.name, one.default]));
  const named = ({ name, bytes, place }) => option(name, `${place}, ${(bytes / 1e9).toFixed(2)} GB`);
  find("models").append(...models.map(named));
  find("activations").append(...activations.map(({ name, place }) => option(name, place)));
  find("found").textContent = models.length
    ? `${models.length} models have names here.`
    : "No models are found by name: start this server with  --models FOLDER, the folder of your web UI.";
  const choose = (name, values) => form.querySelector(`[data-setting="${name}"]`).append(...values);
  const listed = (name) => known[name]?.choices.map((one) => option(one)) ?? [];
  choose("experiment", [option("", "none"), ...listed("experiment")]);
  choose("method", methods.map((one) => option(one)));
  choose("optimiser", [option("", fork ? `as in ${fork}` : "structured, the default"), ...listed("optimiser")]);
  for (const place of form.querySelectorAll("[data-several]")) {
    const several = known[place.dataset.several];
    place.append(...(several?.choices ?? []).map((name) => box(name)));
    const none = `None ticked: ${several?.default}, or what the ready-made run has.`;
    place.after(Object.assign(document.createElement("small"), { className: "quiet", textContent: none }));
  }
  const asked = [...form.querySelectorAll("[data-setting]")];
  const isThere = (name) => name in known || (name.startsWith("saliency.") && activations.length > 0);
  for (const field of asked) field.closest("label").hidden = !isThere(field.dataset.setting);
  for (const part of form.querySelectorAll("fieldset")) {
    part.hidden = ![...part.querySelectorAll("label")].some((one) => !one.hidden);
  }
  const shown = new Set(asked.map((one) => one.dataset.setting));
  for (const one of settings) {
    if (!shown.has(one.name) && !["payloads", "scorers", "models"].includes(one.name)) find("others").append(other(one));
  }
  for (const field of form.querySelectorAll("[data-setting]")) {
    const own = /^(model_|saliency\.|name$)/.test(field.dataset.setting);
    if (!own) field.value = defaults[field.dataset.setting] ?? "";
  }
}

function box(name) {
  const label = document.createElement("label");
  label.append(Object.assign(document.createElement("input"), { type: "checkbox", value: name }), ` ${name}`);
  return label;
}

function other({ name, kind, default: given, about, choices }) {
  const label = document.createElement("label");
  const values = choices.length ? ["", ...choices] : kind === "yes or no" ? ["true", "false"] : null;
  const field = document.createElement(values ? "select" : "input");
  if (values) field.append(...values.map((one) => option(one, one || "the default")));
  else if (kind !== "text") Object.assign(field, { type: "number", step: kind === "number" ? "any" : 1 });
  field.dataset.setting = name;
  field.value = given;
  const words = Object.assign(document.createElement("small"), { className: "quiet", textContent: about });
  label.append(Object.assign(document.createElement("b"), { textContent: name }), field, words);
  return label;
}

// Only what differs from the defaults, as it would be typed
function chosen() {
  const settings = [...form.querySelectorAll("[data-setting]")]
    .map((field) => [field.dataset.setting, field.value.trim()])
    .filter(([name, value]) => value && (value !== defaults[name] || name.startsWith("model_")));
  for (const place of form.querySelectorAll("[data-several]")) {
    const names = [...place.querySelectorAll(":checked")].map((one) => one.value);
    if (names.length) settings.push([place.dataset.several, names.join(",")]);
  }
  return {
    settings: settings.map((one) => one.join("=")), line: find("line").value, fork, at_once: find("at-once").checked,
  };
}

async function check() {
  const own = ++checks;
  try {
    const { command, study, trials, after } = await post("/api/v1/studies", { ...chosen(), check: true });
    if (own !== checks) return;
    find("command").textContent = command;
    const waits = after ? ` It waits until ${after} no longer draws on the same device.` : "";
    find("hurry").hidden = !after && !find("at-once").checked;
    find("start").textContent = after ? "Queue" : "Start";
    const many = trials === null ? "as many trials as its pictures are enough for" : `${trials} trials`;
    tell(`Study ${study}: ${many}${fork ? `, more than those of ${fork}` : ""}.${waits}`, true);
  } catch (error) {
    if (own !== checks) return;
    const untouched = own === 1 && !fork; // nobody has done anything wrong yet
    tell(untouched ? "Choose models A and B, or a ready-made run." : error.message, false);
    find("message").classList.toggle("wrong", !untouched);
  }
}

function tell(text, fine) {
  find("message").textContent = text;
  find("message").classList.toggle("wrong", !fine);
  find("start").disabled = !fine;
}

async function start(event) {
  event.preventDefault();
  clearTimeout(timer);
  ++checks;
  find("start").disabled = true;
  try {
    const { study, command, after } = await post("/api/v1/studies", chosen());
    find("command").textContent = command;
    if (after) location.href = "/studies";
    else await begun(encodeURIComponent(study));
  } catch (error) {
    tell(error.message, false);
  }
}

// Models are read before a study is made; what is wrong with them is said as in the terminal
async function begun(study) {
  tell("Starting: the models are read ...", false);
  find("message").classList.remove("wrong");
  for (;;) {
    const { begun, starting, failed, text } = await get(`/api/v1/studies/${study}/output`);
    find("printed").hidden = !text;
    find("printed").textContent = text;
    if (failed) throw new Error(failed);
    if (begun || !starting) break;
    await new Promise((wake) => { setTimeout(wake, LOOK); });
  }
  location.href = `/studies/${study}`;
}

form.addEventListener("input", () => {
  clearTimeout(timer);
  find("start").disabled = true;
  timer = setTimeout(check, CHECK);
});
form.addEventListener("submit", start);
try {
  fill(await get(`/api/v1/choices?${new URLSearchParams({ fork })}`));
  check();
} catch (error) {
  tell(error.message, false);
}
