// Pause, go on, stop, more trials.
import { post } from "./posting.js";

export function steer(api, tell) {
  async function ask(deed, body) {
    try {
      tell((await post(`${api}/${deed}`, body)).said);
    } catch (error) {
      tell(error.message);
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
