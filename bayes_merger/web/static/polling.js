// A page that follows its server: asks again and again, and is told what is new.

const OFTEN = 1000, SELDOM = 5000; // milliseconds; seldom while nobody looks or something is wrong

// show(data) is called when something has changed, tell(text) with what is wrong, or "" when nothing is
export function follow(address, show, tell) {
  let version = "";
  async function look() {
    let pause = SELDOM;
    try {
      const answer = await fetch(`${address}?version=${version}`);
      if (answer.status === 200) {
        const data = await answer.json();
        show(data);
        version = data.version;
      }
      tell(answer.ok ? "" : (await answer.json()).error);
      if (answer.ok && !document.hidden) pause = OFTEN;
    } catch {
      tell("The server does not answer. This page goes on as soon as it does.");
    }
    setTimeout(look, pause);
  }
  look();
}
