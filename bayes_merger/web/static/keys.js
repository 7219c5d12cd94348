// The keyboard. Digits by where they are, so that they are digits on every layout; letters by what they say.

const LETTERS = {
  u: "undo", s: "later", v: "void", c: "compare", z: "zoom", g: "grid", p: "prompt",
  a: "prefer-left", b: "prefer-right", t: "prefer-neither",
};
const OTHERS = { Backspace: "undo", Enter: "confirm", "?": "help" };
const DIGIT = /^(?:Digit|Numpad)(\d)$/;

export function keyboard(does) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (document.querySelector("dialog[open]") || event.target.matches("input, textarea, select")) return;
    const act = action(event, does);
    if (!act) return;
    if (event.target.matches(":focus-visible") && event.target.matches("button, a") && ["Enter", " "].includes(event.key)) return;
    event.preventDefault();
    if (!event.repeat || act.repeats) act();
  });
  document.addEventListener("keyup", (event) => event.code === "Space" && does.blinking() && does.blink(false));
  window.addEventListener("blur", () => does.blinking() && does.blink(false));
}

function action(event, does) {
  const digit = DIGIT.exec(event.code)?.[1];
  if (digit !== undefined) return () => does.rate(Number(digit) + (event.shiftKey ? 0.5 : 0));
  if (event.code === "Equal" || event.code === "NumpadAdd" || ["=", "+"].includes(event.key)) return () => does.rate(10);
  if (event.code === "Space") return () => does.blink(true);
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    return Object.assign(() => does.step(event.key === "ArrowLeft" ? -1 : 1), { repeats: true });
  }
  const latin = /^[a-z]$/i.test(event.key) ? event.key : event.code.replace("Key", "");
  return does[LETTERS[latin.toLowerCase()] ?? OTHERS[event.key]];
}
