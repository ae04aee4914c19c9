// A message as elements: its text, what was thought before, tool calls, files, and what can be done with it.

import { endOf } from "/web/page/answer.js";
import { copied } from "/web/page/clipboard.js";
import { element, icon, iconButton } from "/web/page/dom.js";
import { count, plural, rate, seconds } from "/web/page/format.js";
import { MarkdownStream, renderWhole } from "/web/page/markdown_stream.js";

// `actions`: what the thread does with a message: edit, regenerate, go on, select, answerCall.
export class MessageView {
  constructor(message, actions) {
    Object.assign(this, { message, actions });
    this.text = element("div", { className: "text" });
    this.before = element("div", { className: "before" });
    this.after = element("div", { className: "after" });
    this.foot = element("div", { className: "foot" });
    const name = { user: "You", assistant: message.model || "Model", tool: "Tool result" }[message.role];
    const heading = element("h3", { className: "hidden", dir: "auto" }, name);
    this.box = element("article", { className: `turn ${message.role}` }, heading, this.before, this.text, this.after, this.foot);
  }

  // All of it, as it is stored.
  show(siblings) {
    const { message } = this;
    if (message.role === "assistant") {
      if (message.reasoning) this.#reasoning().append(message.reasoning);
      this.#nameReasoning();
      renderWhole(this.text, message.content, this.actions.grew);
    } else {
      this.text.textContent = message.content;
      this.text.dir = "auto";
    }
    this.#showEnd(siblings);
    return this;
  }

  // An answer that begins: it grows by `grow`, until `end`.
  begin() {
    this.box.classList.add("working");
    this.box.setAttribute("aria-busy", "true");
    // Going on with an answer that was cut off begins with what there is.
    this.stream = new MarkdownStream(this.text);
    this.text.replaceChildren();
    if (this.message.content) this.stream.append(this.message.content);
    this.foot.replaceChildren();
    this.after.replaceChildren();
    return this;
  }

  grow(kind, text) {
    if (kind === "reasoning") this.#reasoning().append(text);
    else this.stream.append(text);
  }

  end(siblings) {
    this.box.classList.remove("working");
    this.box.removeAttribute("aria-busy");
    this.stream.finish(this.message.content);
    this.#nameReasoning();
    this.#showEnd(siblings);
  }

  #reasoning() {
    if (!this.thought) {
      const text = document.createTextNode("");
      this.summary = element("summary", {}, "Thinking…");
      const body = element("div", { className: "thought", dir: "auto" }, text);
      this.before.append(element("details", { className: "reasoning" }, this.summary, body));
      this.thought = { append: (more) => text.appendData(more) };
    }
    return this.thought;
  }

  #nameReasoning() {
    const took = this.message.speed?.thought_s;
    if (this.summary) this.summary.textContent = took ? `Thought for ${seconds(took)}` : "Thought";
  }

  #showEnd(siblings) {
    const { message } = this;
    const end = endOf(message);
    this.after.replaceChildren(
      ...(message.files ?? []).map(fileBox),
      ...(message.calls ?? []).map((call) => this.#call(call)),
      ...(end ? [element("p", { className: "note" }, end)] : []),
      ...(message.role === "user" ? [this.#unanswered()] : []),
    );
    this.foot.replaceChildren(...this.#branches(siblings), ...this.#buttons(), ...this.#speed());
  }

  // Seen where no answer follows.
  #unanswered() {
    const again = element("button", { type: "button", className: "small", onclick: () => this.actions.answer(this.message) }, "Answer");
    return element("p", { className: "note unanswered" }, "Not answered: later messages go without it. ", again);
  }

  #call(call) {
    const place = element("div");
    const actions = this.actions.awaits(this.message, call) ? this.actions : null;
    const shown = import("/web/page/call_box.js").then(({ callBox }) => place.replaceWith(callBox(call, actions)));
    shown.catch(() => place.append(`Calls ${call.name} ${call.arguments}`));
    return place;
  }

  #branches(siblings) {
    if (siblings.length < 2) return [];
    const at = siblings.indexOf(this.message.id);
    const step = (name, label, by) => {
      const button = iconButton(name, label, () => this.actions.select(siblings[at + by]));
      button.disabled = !(at + by in siblings);
      return button;
    };
    const place = element("span", { className: "place" }, `${at + 1} / ${siblings.length}`);
    return [step("left", "Previous version", -1), place, step("right", "Next version", 1)];
  }

  #buttons() {
    const { message, actions } = this;
    const copy = iconButton("copy", "Copy", () => copied(message.content, copy));
    const edit = async () => (await import("/web/page/edit_form.js")).default(this);
    if (message.role === "user") return [copy, iconButton("edit", "Edit", edit)];
    if (message.role === "tool") return [copy];
    const again = iconButton("again", "Answer again", () => actions.regenerate(message));
    if (!actions.canGoOn(message)) return [copy, again];
    const on = element("button", { type: "button", className: "small", onclick: () => actions.goOn(message) }, "Go on");
    return [copy, again, on];
  }

  #speed() {
    const { decode_tok_s: decode, first_s: first, tokens } = this.message.speed ?? {};
    const told = [
      decode ? `${rate(decode)} tok/s` : "",
      tokens ? plural(tokens, "token") : "",
      first ? `first after ${seconds(first)}` : "",
    ].filter(Boolean);
    return told.length ? [element("span", { className: "speed" }, told.join(" · "))] : [];
  }
}

function fileBox({ name, text }) {
  const summary = element("summary", {}, icon("file"), element("bdi", {}, name), element("small", {}, `${count(text.length)} characters`));
  const box = element("details", { className: "file" }, summary);
  box.addEventListener("toggle", () => box.append(element("pre", { tabIndex: 0, dir: "auto" }, text)), { once: true });
  return box;
}
