// An answer on its way: what comes over the stream becomes fields of its message.

import { stream } from "/web/page/api.js";

export class Answer {
  // `grew(kind, text)` is called for each chunk; kind is "text" or "reasoning".
  constructor(message, grew) {
    Object.assign(this, { message, grew });
    this.abort = new AbortController();
    this.began = performance.now();
    message.speed = {};
    message.finish = "stopped"; // until it ends in another way: the page may be closed before
  }

  stop() {
    this.abort.abort();
  }

  // Runs to its end. Returns the error that ended it, or null.
  async run(path, body) {
    const { message } = this;
    try {
      for await (const event of stream(path, body, this.abort.signal)) this.#take(event);
      if (message.finish === "stopped") message.finish = "stop";
    } catch (error) {
      const stopped = error.name === "AbortError";
      message.finish = stopped ? "stopped" : "error";
      return stopped ? null : error;
    }
    return null;
  }

  #take({ choices, model, timings, usage }) {
    const { message } = this;
    if (model) message.model = model;
    if (timings) message.speed.decode_tok_s = timings.decode_tok_s;
    if (usage) message.speed.tokens = usage.completion_tokens;
    const choice = choices[0];
    if (!choice) return;
    if (choice.finish_reason) message.finish = choice.finish_reason;
    const { content = choice.text, reasoning_content: reasoning, tool_calls: calls } = choice.delta ?? choice;
    if (reasoning) this.#add("reasoning", reasoning);
    if (content) this.#add("text", content);
    for (const call of calls ?? []) this.#addCall(call);
  }

  #add(kind, text) {
    const { message } = this;
    const now = performance.now();
    message.speed.first_s ??= (now - this.began) / 1000;
    if (kind === "reasoning") {
      message.reasoning = (message.reasoning ?? "") + text;
      message.speed.thought_s = (now - this.began) / 1000 - message.speed.first_s;
    } else {
      message.content += text;
    }
    this.grew(kind, text);
  }

  #addCall({ index, id, function: { name, arguments: text = "" } }) {
    this.message.calls ??= [];
    const call = (this.message.calls[index] ??= { id, name, arguments: "" });
    call.arguments += text;
  }
}
