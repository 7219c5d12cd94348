// All pictures of a payload, the best first; two that are chosen are compared.
import { get } from "./asking.js";

const { api, here } = document.querySelector("main").dataset;
const find = (id) => document.getElementById(id);
let chosen = []; // trials, the last two

function tile({ trial, address, points, payload }) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "tile";
  made.dataset.trial = trial;
  made.ariaPressed = String(chosen.includes(trial));
  const image = Object.assign(new Image(), { loading: "lazy", alt: `${payload} by trial ${trial}`, src: `${address}?size=small` });
  const words = document.createElement("span");
  words.append(Object.assign(document.createElement("b"), { textContent: `trial ${trial}` }), points === null ? "" : ` ${points.toFixed(2)}`);
  made.append(image, words);
  return made;
}

async function show(after) {
  const asked = new URLSearchParams({ payload: find("payload").value, after });
  let found;
  try {
    found = await get(`${api}/gallery?${asked}`);
    find("message").textContent = "";
  } catch (error) {
    find("message").textContent = error.message;
    return;
  }
  const { pictures, total, payloads } = found;
  if (!find("payload").options.length) find("payload").append(...payloads.map((name) => new Option(name)));
  if (!after) find("gallery").replaceChildren();
  find("gallery").append(...pictures.map(tile));
  find("count").textContent = `${total} pictures, the best first; choose two to compare`;
  find("more").hidden = find("gallery").childElementCount >= total;
}

find("gallery").addEventListener("click", ({ target }) => {
  const trial = Number(target.closest(".tile")?.dataset.trial ?? NaN);
  if (Number.isNaN(trial)) return;
  chosen = chosen.includes(trial) ? chosen.filter((one) => one !== trial) : [...chosen, trial].slice(-2);
  for (const one of find("gallery").children) one.ariaPressed = String(chosen.includes(Number(one.dataset.trial)));
  find("two").hidden = chosen.length < 2;
  find("two").href = `${here}/compare?first=${chosen[0]}&second=${chosen[1]}`;
  find("two").textContent = `Compare ${chosen.join(" and ")}`;
});
find("payload").addEventListener("change", () => show(0));
find("more").addEventListener("click", () => show(find("gallery").childElementCount));
show(0);
