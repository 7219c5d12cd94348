// Two merges side by side: each pair of pictures in one frame, with a slider between them; all blink together.
import { get } from "./asking.js";

const main = document.querySelector("main");
const { api, study } = main.dataset;
const find = (id) => document.getElementById(id);
const form = find("which");
const number = (value) => (value === null ? "" : value.toFixed(3));

function pair({ payload, seed, prompt, first, second, lead }) {
  const made = find("pair").content.firstElementChild.cloneNode(true);
  const [left, right] = made.querySelectorAll("img");
  for (const [image, shot] of [[left, first], [right, second]]) {
    image.alt = `${payload}, trial ${shot.trial}`;
    if (shot.address) image.src = `${shot.address}?size=large`;
    else image.classList.add("missing");
  }
  const slider = made.querySelector("input");
  slider.ariaLabel = `${payload}: how much of trial ${first.trial}`;
  slider.addEventListener("input", () => made.querySelector(".wipe").style.setProperty("--at", `${slider.value}%`));
  made.querySelector("b").textContent = payload;
  made.querySelector(".quiet").textContent = `${prompt}, seed ${seed}`;
  made.querySelector(".points").textContent =
    lead === null ? "" : `${number(first.points)} | ${number(second.points)} (${lead > 0 ? "+" : ""}${number(lead)})`;
  return made;
}

function row({ name, first, second }) {
  const made = document.createElement("tr");
  const difference = first === null || second === null ? "" : number(second - first);
  for (const text of [name, number(first), number(second), difference]) made.insertCell().textContent = text;
  made.cells[0].className = "text";
  return made;
}

async function look() {
  const asked = new URLSearchParams([...new FormData(form)].filter(([, value]) => value.trim()));
  history.replaceState(null, "", `?${asked}`);
  find("message").textContent = "Looking ...";
  let found;
  try {
    found = await get(`${api}/comparison?${asked}`);
    find("message").textContent = "";
  } catch (error) {
    find("message").textContent = error.message;
    return;
  }
  find("said").textContent = found.said;
  find("pairs").replaceChildren(...found.pairs.map(pair));
  find("blink").hidden = !found.pairs.length;
  find("weights").hidden = !found.weights.length;
  find("weights").querySelector("summary").textContent = `${found.weights.length} weights differ`;
  find("weights").querySelector("tbody").replaceChildren(...found.weights.map(row));
}

const blink = (on) => find("pairs").classList.toggle("first", on);
find("blink").addEventListener("pointerdown", () => blink(true));
for (const name of ["pointerup", "pointercancel", "blur"]) addEventListener(name, () => blink(false));
addEventListener("keydown", (event) => {
  if (event.code !== "Space" || event.target.matches("input, summary, button:not(#blink)")) return;
  event.preventDefault();
  blink(true);
});
addEventListener("keyup", ({ code }) => code === "Space" && blink(false));
form.addEventListener("submit", (event) => {
  event.preventDefault();
  look();
});

const given = new URLSearchParams(location.search);
for (const field of form.querySelectorAll("input")) field.value = given.get(field.name) ?? "";
form.first.value ||= "0";
form.second.value ||= "best";
look();
const { studies } = await get("/api/v1/studies");
find("studies").append(...studies.filter(({ name }) => name !== study).map(({ name }) => new Option(name)));
