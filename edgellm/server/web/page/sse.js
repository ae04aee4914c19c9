// Server-sent events from a response body: yields each event's JSON until [DONE].

export async function* readEvents(body) {
  const decoder = new TextDecoder();
  let held = "";
  for await (const bytes of chunks(body.getReader())) {
    held += decoder.decode(bytes, { stream: true });
    const events = held.split("\n\n");
    held = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue; // a comment, which keeps the connection open
      const data = event.slice("data: ".length);
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
  throw new Error("cut off");
}

// Not every browser can iterate over a stream.
async function* chunks(reader) {
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
