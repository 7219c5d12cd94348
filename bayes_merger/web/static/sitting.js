// What the server says of a sitting, and what has been said to it and not been answered yet.
//
// The view is always the server's last word with the unanswered ones applied to it: so the page moves on at once, and
// what the server refuses is taken back by forgetting it. While the server does not answer, nothing new is taken; what
// is on its way is kept, and sent again if the server, once it is back, does not know of it.

const POLL = 2000; // milliseconds between looks at what is new
const RETRY = 500; // between tries while the server does not answer
const PATIENCE = 10000; // before an answer is not waited for any longer

export class Sitting extends EventTarget {
  #api;
  #said = []; // {path, body, apply, known}: the first one is on its way
  #heard = null;
  #sending = false;

  constructor(api) {
    super();
    this.#api = api;
    this.up = true;
  }

  // Resolves once the first state is there
  async start() {
    await this.#look();
    setInterval(() => document.hidden || this.#said.length || this.#look(), POLL);
    document.addEventListener("visibilitychange", () => document.hidden || this.#look());
    window.addEventListener("beforeunload", (event) => this.#said.length && event.preventDefault());
  }

  get view() {
    const view = structuredClone(this.#heard);
    for (const { apply } of this.#said) apply(view);
    return view;
  }

  // How much of what was said is not known to be on the disk
  get unsaved() {
    return this.#said.length;
  }

  rate(trial, picture, score, ms) {
    const target = (view) => {
      const found = view.trials.find((one) => one.id === trial.id);
      return found?.unit === "trial" ? found : found?.pictures.find((one) => one.id === picture.id);
    };
    const id = trial.unit === "trial" ? trial.id : picture.id;
    this.#say("ratings", { id, score, ms }, (view) => {
      const found = target(view);
      if (found) found.score = score;
    }, (view) => target(view)?.score === score);
  }

  confirm(trial) {
    this.#leave("confirmations", trial);
  }

  void(trial) {
    this.#leave("voids", trial);
  }

  later(trial) {
    this.#say("delays", { id: trial.id }, (view) => {
      const place = view.trials.findIndex((one) => one.id === trial.id);
      if (place >= 0) view.trials.push(...view.trials.splice(place, 1));
    }, (view) => view.trials[0]?.id !== trial.id);
  }

  prefer(pair, side, ms) {
    const known = (view) => !view.playoff?.pairs.some((one) => one.id === pair.id);
    this.#say("preferences", { id: pair.id, side, ms }, ({ playoff }) => {
      playoff.pairs = playoff.pairs.filter((one) => one.id !== pair.id);
      playoff.left -= 1;
    }, known);
  }

  crown() {
    this.#say("champions", {}, () => {}, (view) => view.playoff?.over);
  }

  // What was undone, only the server knows
  undo() {
    this.#say("undo", {}, () => {}, () => true);
  }

  #leave(path, trial) {
    const without = (view) => view.trials.filter((one) => one.id !== trial.id);
    this.#say(path, { id: trial.id }, (view) => {
      view.trials = without(view);
      view.waiting -= 1;
      view.done += path === "confirmations";
    }, (view) => without(view).length === view.trials.length);
  }

  #say(path, body, apply, known) {
    this.#said.push({ path, body, apply, known });
    this.#changed();
    this.#send();
  }

  async #send() {
    if (this.#sending) return;
    this.#sending = true;
    while (this.#said.length) {
      const { path, body } = this.#said[0];
      try {
        const answer = await this.#ask(path, body);
        this.#said.shift();
        this.#hear(answer);
      } catch (error) {
        if (error instanceof Refused) {
          this.#said = []; // what was said after it took it for granted
          await this.#look();
          this.#changed();
          this.dispatchEvent(new CustomEvent("refused", { detail: error.message }));
        } else {
          await this.#wait();
        }
      }
    }
    this.#sending = false;
  }

  // Until the server answers again
  async #wait() {
    this.up = false;
    this.#changed();
    while (!(await this.#look())) await new Promise((resolve) => setTimeout(resolve, RETRY));
  }

  async #look() {
    try {
      this.#hear(await this.#ask(`?version=${encodeURIComponent(this.#heard?.version ?? "")}`));
      return true;
    } catch (error) {
      if (error instanceof Refused) this.dispatchEvent(new CustomEvent("refused", { detail: error.message }));
      else if (this.up) {
        this.up = false;
        this.#changed();
      }
      return false;
    }
  }

  #hear(answer) {
    const back = !this.up;
    this.up = true;
    if (answer) this.#heard = answer;
    while (back && this.#said[0]?.known(this.#heard)) this.#said.shift(); // it is not said twice
    if (answer || back) this.#changed(answer?.undone);
  }

  async #ask(path, body) {
    const separator = path.startsWith("?") ? "" : "/";
    const answer = await fetch(`${this.#api}${separator}${path}`, {
      method: body ? "POST" : "GET",
      headers: body ? { "content-type": "application/json" } : {},
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(PATIENCE),
    });
    if (answer.status === 204) return null;
    const data = await answer.json();
    if (!answer.ok) throw new Refused(data.error);
    return data;
  }

  #changed(undone) {
    this.dispatchEvent(new CustomEvent("change", { detail: { undone } }));
  }
}

class Refused extends Error {}
