// The API: JSON, and what went wrong is one line.

export const get = (address) => ask(address, {});

// What changes anything is JSON from a page of ours
export const post = (address, body = {}) => ask(address, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify(body),
});

async function ask(address, how) {
  const answer = await fetch(address, how).catch(() => null);
  const said = await answer?.json().catch(() => null);
  if (!answer?.ok || !said) throw new Error(said?.error ?? "The server does not answer.");
  return said;
}
