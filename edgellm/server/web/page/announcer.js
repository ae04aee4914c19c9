// What a screen reader says: that an answer begins, and the answer when it is complete; not every chunk of it.

import { at } from "/web/page/dom.js";

const MOST_READ = 2_000; // characters

export function announceBegin() {
  at("announcer").textContent = "The model answers.";
}

export function announceEnd({ content, calls, finish }) {
  const text = content.length > MOST_READ ? `${content.slice(0, MOST_READ)}… The rest is in the conversation.` : content;
  const called = calls?.length ? ` It calls ${calls.map(({ name }) => name).join(", ")}.` : "";
  const end = { stopped: " Stopped.", length: " Cut off at the longest answer.", error: " Ended by an error." }[finish] ?? "";
  at("announcer").textContent = `${text}${called}${end}`;
}
