// One study: the parts of its report, exchanged where they have changed, so that the rest stays as the person left it.
import { follow } from "./following.js";
import { moveIn, receive } from "./rows.js";
import { steer } from "./steering.js";

const page = document.getElementById("page");
const { api, study } = page.dataset;
const parts = new Map(); // name -> what is shown, and its element
const find = (id) => document.getElementById(id);

function exchange(name, html) {
  const known = parts.get(name);
  if (known?.html === html) return;
  const place = known?.place ?? page.appendChild(document.createElement("div"));
  const restore = known ? kept(place) : () => {};
  place.innerHTML = html;
  parts.set(name, { html, place });
  if (name === "trials") moveIn();
  restore();
}

// What the person has done to a part: opened, scrolled, sorted, filtered, begun to type
function kept(place) {
  const open = [...place.querySelectorAll("details")].map((one) => one.open);
  const table = place.querySelector(".table");
  const at = [table?.scrollTop, table?.scrollLeft];
  const head = place.querySelector("[aria-sort]");
  const column = head?.cellIndex, order = head?.ariaSort;
  const filter = place.querySelector("#filter")?.value;
  const focused = place.contains(document.activeElement) && document.activeElement.id;
  return () => {
    place.querySelectorAll("details").forEach((one, index) => { one.open = open[index] ?? false; });
    const fresh = place.querySelector(".sortable thead tr")?.cells[column];
    while (fresh && fresh.ariaSort !== order) fresh.click();
    const field = place.querySelector("#filter");
    if (field && filter) {
      field.value = filter;
      field.dispatchEvent(new Event("input", { bubbles: true }));
    }
    place.querySelector(".table")?.scrollTo(...at.toReversed());
    if (focused) find(focused)?.focus({ preventScroll: true });
  };
}

function report({ parts: changed, rows, drawing, waiting }) {
  find("name").hidden = true; // the report's head has it
  find("reading").hidden = true;
  for (const [name, html] of Object.entries(changed)) exchange(name, html);
  receive(rows);
  find("drawing").textContent = drawing.length ? `trial ${drawing.join(", ")} ·` : "";
  find("rate").hidden = !waiting;
  find("rate").textContent = waiting === 1 ? "1 merge waits for you" : `${waiting} merges wait for you`;
}

function now({ state, steps, stage, finished, budget, previews }) {
  const runs = !["done", "unfinished", "unreadable"].includes(state);
  document.title = runs ? `${finished}${budget ? ` of ${budget}` : ""} · ${study}` : study;
  find("now").hidden = state === "unreadable";
  const came = find("now").dataset.state !== state && !["pausing", "stopping"].includes(state);
  if (came) find("steered").textContent = ""; // it said what would happen, and that has happened
  find("now").dataset.state = state;
  find("state").textContent = state;
  const trials = budget ? `${finished} of ${budget} trials` : `${finished} trials`;
  const whole = stage?.total ?? budget;
  find("budget").hidden = !whole || state === "done";
  find("budget").max = whole || 1;
  find("budget").value = stage?.done ?? finished;
  find("budget").ariaLabel = stage?.of ?? "Trials";
  find("finished").textContent = stage ? `${trials} · ${stage.of}, ${stage.done + 1} of ${whole}: ${stage.about}` : trials;
  find("steps").replaceChildren(...steps.map(step));
  look(runs ? previews : []);
  for (const button of document.querySelectorAll("#steering [data-when]")) {
    button.hidden = !button.dataset.when.split(" ").includes(state);
  }
}

// What is drawn now, a picture for each process that draws; the old one stays until the new one is here
function look(previews) {
  const place = find("newest");
  place.hidden = !previews.length;
  while (place.childElementCount > previews.length) place.lastElementChild.remove();
  previews.forEach((id, number) => {
    const image = place.children[number] ?? place.appendChild(Object.assign(new Image(), { alt: "The pictures that are drawn now" }));
    const address = `${api}/preview?id=${id}`;
    if (image.getAttribute("src") !== address) image.src = address;
  });
}

function step({ worker, text, done, total }) {
  const line = document.createElement("li");
  line.append([worker, text].filter(Boolean).join(": "));
  if (total) line.append(Object.assign(document.createElement("progress"), { max: total, value: done, ariaLabel: text }));
  return line;
}

function say(text) {
  find("message").textContent = text;
  if (text) find("reading").hidden = true;
}
follow(`${api}/events`, { report, now }, say);
steer(api, (text) => { find("steered").textContent = text; });
