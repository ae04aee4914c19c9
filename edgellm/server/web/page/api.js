// The server's API. The key is kept until this tab is closed.

import { readEvents } from "/web/page/sse.js";

const KEY = "edgellm-key";
const SILENT = "does not answer. Start it again with `edgellm serve`, then try again.";

export class Refused extends Error {
  constructor(status, message, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const setKey = (key) => sessionStorage.setItem(KEY, key);

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { authorization: `Bearer ${key}`, ...more } : more;
}

// {status, reason} of the model; "unreachable" where no server answers.
export async function health() {
  try {
    return await (await fetch("/health")).json();
  } catch {
    return { status: "unreachable", reason: "" };
  }
}

export async function get(path) {
  return (await send(path, { headers: headers() })).json();
}

// Yields the events of a streamed answer.
export async function* stream(path, body, signal) {
  const sent = JSON.stringify({ ...body, stream: true });
  const response = await send(path, {
    method: "POST",
    headers: headers({ "content-type": "application/json" }),
    body: sent,
    signal,
  });
  try {
    for await (const event of readEvents(response.body)) {
      if (event.error) throw new Refused(500, event.error.message, event.error.code);
      yield event;
    }
  } catch (error) {
    if (error instanceof Refused || error.name === "AbortError") throw error;
    const { status } = await health();
    throw new Refused(0, `The answer was cut off: the ${status === "unreachable" ? `server ${SILENT}` : "connection broke. Try again."}`);
  }
}

async function send(path, request) {
  let response;
  try {
    response = await fetch(path, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, `The server ${SILENT}`);
  }
  if (response.ok) return response;
  const error = await response.json().then((body) => body.error, () => null);
  const message = error?.message ?? `The server answered ${response.status} ${response.statusText}.`;
  throw new Refused(response.status, message, error?.code ?? null);
}
