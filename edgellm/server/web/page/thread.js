// The messages that are shown. It follows an answer that grows, until the reader scrolls away.

import { at, element } from "/web/page/dom.js";
import { plural } from "/web/page/format.js";
import { MessageView } from "/web/page/message_view.js";

const NEAR_PX = 80;
const MOST_AT_ONCE = 60; // messages; earlier ones are shown when asked for

export class Thread {
  constructor(actions) {
    this.actions = actions;
    this.log = at("log");
    this.views = new Map();
    this.follows = true;
    this.top = 0;
    this.frame = 0;
    this.log.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    at("to-end").onclick = () => this.toEnd();
  }

  show(conversation, { most = MOST_AT_ONCE } = {}) {
    const path = conversation.path;
    const left = path.length - most;
    this.views.clear();
    const turns = path.slice(-most).map((message) => this.#view(message).show(conversation.siblings(message)).box);
    const earlier = element("button", { type: "button", className: "earlier" }, `Show ${plural(left, "earlier message")}`);
    earlier.onclick = () => this.show(conversation, { most: most + MOST_AT_ONCE });
    at("turns").replaceChildren(...(left > 0 ? [earlier] : []), ...turns);
    at("empty").hidden = path.length > 0;
    if (most === MOST_AT_ONCE) this.toEnd();
  }

  add(message, siblings) {
    const view = this.#view(message).show(siblings);
    at("turns").append(view.box);
    at("empty").hidden = true;
    this.toEnd();
    return view;
  }

  // Its view once an answer to it, or more of it, begins.
  begin(message) {
    const shown = this.views.get(message.id);
    const view = shown ?? this.#view(message);
    if (!shown) at("turns").append(view.box);
    view.begin();
    this.toEnd();
    return view;
  }

  // After the next frame, in which new text is rendered.
  follow() {
    if (!this.follows) return;
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.toEnd();
    });
  }

  toEnd() {
    this.follows = true;
    this.log.scrollTop = this.log.scrollHeight;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.log;
    const fromEnd = scrollHeight - scrollTop - clientHeight;
    if (fromEnd < NEAR_PX) this.follows = true;
    else if (scrollTop < this.top) this.follows = false; // the reader went up
    this.top = scrollTop;
    at("to-end").hidden = this.follows;
  }

  #view(message) {
    const view = new MessageView(message, this.actions);
    this.views.set(message.id, view);
    return view;
  }
}
