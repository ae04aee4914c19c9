// A conversation: a tree of messages. What is shown is the path from its root to `leaf`; an edit or another answer
// is a sibling of what it replaces.

export const newId = () => crypto.randomUUID?.() ?? [...crypto.getRandomValues(new Uint32Array(4))].join("-");

export class Conversation {
  constructor({ id = newId(), title = "", system = "", created = Date.now(), updated = created, leaf = null } = {}, messages = []) {
    Object.assign(this, { id, title, system, created, updated, leaf });
    this.messages = new Map(messages.map((message) => [message.id, message]));
    this.children = new Map();
    for (const message of messages) this.#adopt(message);
    if (!this.messages.has(leaf)) this.leaf = messages.at(-1)?.id ?? null;
  }

  // What is stored beside the messages.
  get head() {
    const { id, title, system, created, updated, leaf } = this;
    return { id, title, system, created, updated, leaf };
  }

  get path() {
    return this.pathTo(this.leaf);
  }

  // From the root to this message.
  pathTo(id) {
    const path = [];
    for (let at = this.messages.get(id); at; at = this.messages.get(at.parent)) path.push(at);
    return path.reverse();
  }

  add(fields, parent = this.leaf) {
    // Each is later than those before, so that their order can be read from it.
    const created = Math.max(Date.now(), this.updated + 1);
    const message = { id: newId(), conversation: this.id, parent, created, content: "", ...fields };
    this.messages.set(message.id, message);
    this.#adopt(message);
    this.leaf = message.id;
    this.updated = message.created;
    if (!this.title && message.role === "user") this.title = titleOf(message);
    return message;
  }

  // A message without children is taken out, as if it had never been there.
  drop(message) {
    this.messages.delete(message.id);
    const siblings = this.siblings(message).filter((id) => id !== message.id);
    this.children.set(message.parent, siblings);
    if (this.leaf === message.id) this.leaf = siblings.length ? this.#deepest(siblings.at(-1)) : message.parent;
  }

  // Whether every message of the other is here too. Ids do not tell: what is imported has ids of its own.
  holds(other) {
    const own = new Set([...this.messages.values()].map(written));
    return [...other.messages.values()].every((message) => own.has(written(message)));
  }

  // Ids of the messages with the same parent, the oldest first.
  siblings(message) {
    return this.children.get(message.parent) ?? [];
  }

  // Show the branch of this message, down to its latest message.
  select(id) {
    this.leaf = this.#deepest(id);
  }

  #deepest(id) {
    for (;;) {
      const last = this.children.get(id)?.at(-1);
      if (last === undefined) return id;
      id = last;
    }
  }

  #adopt(message) {
    if (!this.children.has(message.parent)) this.children.set(message.parent, []);
    this.children.get(message.parent).push(message.id);
  }
}

const written = ({ created, role, content }) => JSON.stringify([created, role, content]);

function titleOf({ content, files }) {
  const line = (content.trim() || files?.[0]?.name || "").split("\n", 1)[0];
  const characters = [...line];
  return characters.length > 60 ? `${characters.slice(0, 59).join("")}…` : line;
}
