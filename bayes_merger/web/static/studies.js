// All studies, a card each.
import { follow } from "./following.js";

const list = document.getElementById("studies");
const message = document.getElementById("message");
const template = document.getElementById("card").content.firstElementChild;

function card(study) {
  const made = template.cloneNode(true);
  const [picture, name] = made.querySelectorAll("a");
  const one = (selector) => made.querySelector(selector);
  const { finished, budget } = study.trials;
  picture.href = name.href = `/studies/${encodeURIComponent(study.name)}`;
  name.textContent = study.name;
  one(".state").textContent = study.state;
  made.dataset.state = study.state;
  one(".said").textContent = study.wrong || study.verdict;
  if (study.thumbnail) {
    const image = new Image();
    image.alt = "";
    image.src = study.thumbnail;
    picture.append(image);
  }
  const bar = one("progress");
  bar.hidden = study.state === "unreadable" || !budget;
  bar.max = budget || 1;
  bar.value = finished;
  bar.ariaLabel = "Trials";
  one(".facts").textContent = study.wrong ? "" : [
    budget ? `${finished} of ${budget} trials` : `${finished} trials`,
    study.best && `best ${study.best.value.toFixed(2)} points`,
    study.method, study.optimiser,
    study.last && `last trial ${new Date(study.last).toLocaleString()}`,
  ].filter(Boolean).join(" · ");
  return made;
}

function show({ studies }) {
  list.replaceChildren(...studies.map(card));
}

follow("/api/v1/events", { studies: show }, (wrong) => {
  const none = list.childElementCount ? "" : "There are no studies yet. Start one with  New run, or in a terminal with  bayes-merger run ...";
  message.textContent = wrong || none;
});
