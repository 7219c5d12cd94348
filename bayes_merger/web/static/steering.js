// Pause, go on, stop, more trials.
import { get, post } from "./asking.js";

const LOOK = 1000; // milliseconds

export function steer(api, tell) {
  async function ask(deed, body) {
    try {
      tell((await post(`${api}/${deed}`, body)).said);
      if (deed === "resume") await begun();
    } catch (error) {
      tell(error.message);
    }
  }
  // A new process may find that it cannot go on
  async function begun() {
    for (let more = true; more;) {
      const { starting, failed } = await get(`${api}/output`);
      if (failed) throw new Error(failed);
      more = starting && document.getElementById("now").dataset.state === "unfinished";
      if (more) await new Promise((wake) => { setTimeout(wake, LOOK); });
    }
  }
  const place = document.getElementById("steering");
  place.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-do]");
    if (button) ask(button.dataset.do, button.dataset.now ? { now: true } : {});
  });
  place.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    ask("resume", { trials: Number(new FormData(event.target).get("trials")) });
    event.target.closest("details").open = false;
  });
}
