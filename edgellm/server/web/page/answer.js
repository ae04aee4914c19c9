// An answer on its way: what comes over the stream becomes fields of its message.

import { stream } from "/web/page/api.js";
import { count } from "/web/page/format.js";

const ENDS = {
  length: "Cut off at the longest answer.",
  full: "The context is full.",
  stopped: "Stopped.",
  error: "Ended by an error.",
};

// How it ended, where that is told.
export function endOf({ finish, speed }) {
  if (finish === "full" && speed?.context) return `The context (${count(speed.context)} tokens) is full.`;
  return ENDS[finish] ?? "";
}

export class Answer {
  // `grew(kind, text)` is called for each chunk; kind is "text" or "reasoning". A message that ended before goes on.
  constructor(message, grew) {
    Object.assign(this, { message, grew, before: message.finish && (message.speed ?? {}) });
    this.abort = new AbortController();
    this.began = performance.now();
    message.speed = {};
    message.finish ??= "stopped"; // until it ends in another way: the page may be closed before
  }

  stop() {
    this.abort.abort();
  }

  // Runs to its end. `context`: tokens that it holds, once they are known. Returns the error that ended it, or null.
  async run(request, context) {
    const { message, before } = this;
    try {
      for await (const event of stream(...request(), this.abort.signal)) this.#take(event);
      if (message.finish === "stopped") message.finish = "stop";
      if (message.finish === "length" && this.used >= context()) {
        message.finish = "full";
        message.speed.context = context();
      }
    } catch (error) {
      const stopped = error.name === "AbortError";
      const begun = message.speed.first_s !== undefined;
      // One that could not go on was cut off as before, and may go on later.
      if (before) message.speed = before;
      if (!before || (stopped && begun)) message.finish = stopped ? "stopped" : "error";
      return stopped ? null : error;
    }
    return null;
  }

  #take({ choices, model, timings, usage }) {
    const { message } = this;
    if (model) message.model = model;
    if (timings) message.speed.decode_tok_s = timings.decode_tok_s;
    if (usage) {
      message.speed.tokens = usage.completion_tokens;
      this.used = usage.prompt_tokens + usage.completion_tokens;
    }
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
