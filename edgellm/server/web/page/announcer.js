// What a screen reader says: that an answer begins, and the answer when it is complete; not every chunk of it.

import { endOf } from "/web/page/answer.js";
import { at } from "/web/page/dom.js";

const MOST_READ = 2_000; // characters

export function announceBegin() {
  at("announcer").textContent = "The model answers.";
}

export function announceEnd(message) {
  const { content, calls } = message;
  const text = content.length > MOST_READ ? `${content.slice(0, MOST_READ)}… The rest is in the conversation.` : content;
  const called = calls?.length ? ` It calls ${calls.map(({ name }) => name).join(", ")}.` : "";
  at("announcer").textContent = `${text}${called} ${endOf(message)}`.trim();
}
