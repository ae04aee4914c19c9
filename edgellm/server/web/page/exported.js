// Conversations as a file to keep. What reads one is in archive.js.

import { element } from "/web/page/dom.js";

export const FORMAT = "edgellm-conversations";

export function exportFile(conversations, name) {
  const url = URL.createObjectURL(new Blob([encoded(conversations)], { type: "application/json" }));
  const stem = name.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60) || "conversation";
  element("a", { href: url, download: `${stem}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function encoded(conversations) {
  const records = conversations.map((conversation) => ({
    ...conversation.head,
    messages: [...conversation.messages.values()].map(({ conversation: _, ...message }) => message),
  }));
  return JSON.stringify({ format: FORMAT, version: 1, conversations: records }, null, 1);
}
