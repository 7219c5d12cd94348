// A page that follows its server by server-sent events. Nobody looks at a hidden page, and a browser has few
// connections to one server: it hears nothing, and everything when it is seen again.

// handlers: event -> function of its data; tell(text) with what is wrong, or "" when nothing is
export function follow(address, handlers, tell) {
  let source = null;
  function open() {
    source = new EventSource(address);
    for (const [name, handle] of Object.entries(handlers)) {
      source.addEventListener(name, ({ data }) => {
        tell("");
        handle(JSON.parse(data));
      });
    }
    source.addEventListener("wrong", ({ data }) => tell(JSON.parse(data).error));
    source.addEventListener("error", async () => {
      if (source.readyState === EventSource.CONNECTING) {
        tell("The server does not answer. This page goes on as soon as it does.");
        return;
      }
      source.close(); // it was refused, and the browser gives up
      const answer = await fetch(address, { signal: AbortSignal.timeout(2000) }).catch(() => null);
      tell(answer && !answer.ok ? (await answer.json()).error : "The server does not answer.");
      answer?.body?.cancel?.().catch(() => {});
    });
  }
  function look() {
    if (document.hidden) source?.close();
    else if (!source || source.readyState === EventSource.CLOSED) open();
  }
  document.addEventListener("visibilitychange", look);
  look();
}
