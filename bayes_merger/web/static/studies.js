// All studies, a card each.
import { post } from "./asking.js";
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
  bar.hidden = ["done", "unreadable"].includes(study.state) || !budget;
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

function waiting({ study, after, wrong }) {
  const made = document.createElement("li");
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Take out" });
  button.ariaLabel = `Take ${study} out of the queue`;
  button.addEventListener("click", async () => {
    try {
      await post("/api/v1/queue/leave", { study });
      made.remove();
    } catch (error) {
      message.textContent = error.message;
    }
  });
  const name = Object.assign(document.createElement("b"), { textContent: study });
  const why = wrong ? `could not begin: ${wrong}` : after ? `begins when ${after} no longer draws` : "begins in a moment";
  const words = Object.assign(document.createElement("span"), { className: wrong ? "wrong" : "quiet", textContent: why });
  made.append(name, words, button);
  return made;
}

function show({ studies, queue }) {
  const place = document.getElementById("waiting");
  place.hidden = !queue.length;
  place.querySelector("ol").replaceChildren(...queue.map(waiting));
  list.replaceChildren(...studies.map(card));
  if (!studies.length) message.textContent = "There are no studies yet. Start one with  New run, or in a terminal with  bayes-merger run ...";
}

follow("/api/v1/events", { studies: show }, (wrong) => { message.textContent = wrong; });
