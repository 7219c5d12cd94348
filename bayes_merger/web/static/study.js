// One study: the parts of its report, exchanged where they have changed, so that the rest stays as the person left it.
import { follow } from "./polling.js";

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

function show(data) {
  find("name").hidden = true; // the report's head has it
  for (const [name, html] of Object.entries(data.parts)) exchange(name, html);
  const { finished, budget } = data.trials;
  document.title = data.running ? `${finished}${budget ? ` of ${budget}` : ""} · ${study}` : study;
  find("now").hidden = !data.running;
  find("drawing").textContent = data.drawing.length ? `drawing trial ${data.drawing.join(", ")}` : "";
  find("newest").hidden = !data.newest;
  if (data.newest) find("newest").src = `${api}/pictures/${data.newest}?size=large`;
  find("rate").hidden = !data.waiting;
  find("rate").textContent = data.waiting === 1 ? "1 merge waits for you" : `${data.waiting} merges wait for you`;
}

follow(`${api}/report`, show, (wrong) => { find("message").textContent = wrong; });
