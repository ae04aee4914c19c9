// Conversations in this browser: IndexedDB, a record a message, so that a streaming answer writes only itself.
// Where the browser forbids that (a private window), they are kept until the page is closed.

import { Conversation } from "/web/page/conversation.js";
import { Unwritten } from "/web/page/unwritten.js";

const NAME = "edgellm";
const OPENED = "edgellm-open";
const tabs = "BroadcastChannel" in globalThis ? new BroadcastChannel(NAME) : null;

const settled = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

export class ConversationStore {
  // `changed` is called when another tab changed something.
  static async open(changed) {
    if (tabs) tabs.onmessage = changed;
    let store;
    try {
      store = new ConversationStore(await openDatabase());
      await Unwritten.takeUp((head, messages) => store.#put(head, messages));
    } catch {
      store ??= new ConversationStore(null);
    }
    return store;
  }

  constructor(database) {
    this.database = database;
    this.lasts = database !== null;
    this.memory = new Map();
    this.unwritten = new Unwritten();
  }

  // Heads, the latest first.
  async heads() {
    const heads = this.lasts
      ? await settled(this.database.transaction("conversations").objectStore("conversations").getAll())
      : [...this.memory.values()].map((conversation) => conversation.head);
    return heads.sort((one, other) => other.updated - one.updated);
  }

  // The conversation, or null.
  async load(id) {
    if (!this.lasts) return this.memory.get(id) ?? null;
    const transaction = this.database.transaction(["conversations", "messages"]);
    const head = settled(transaction.objectStore("conversations").get(id));
    const messages = settled(transaction.objectStore("messages").index("conversation").getAll(id));
    if (!(await head)) return null;
    return new Conversation(await head, (await messages).sort((one, other) => one.created - other.created));
  }

  // The id of the conversation that this tab shows, which outlives a reload.
  get opened() {
    return sessionStorage.getItem(OPENED);
  }

  set opened(id) {
    sessionStorage.setItem(OPENED, id);
  }

  // Its head and these of its messages. Throws QuotaExceededError where the browser has no room left.
  async save(conversation, messages) {
    this.memory.set(conversation.id, conversation);
    const write = this.unwritten.begin(conversation, messages);
    try {
      await this.#put(conversation.head, messages);
    } finally {
      this.unwritten.end(write);
    }
  }

  // The page is left: what is not written by now, the next one writes.
  leave() {
    if (this.lasts) this.unwritten.layDown();
  }

  #put(head, messages) {
    return this.#write((heads, kept) => {
      heads.put(head);
      for (const message of messages) kept.put(message);
    });
  }

  async remove(conversation) {
    this.memory.delete(conversation.id);
    this.unwritten.drop(conversation);
    await this.#write((heads, kept) => {
      heads.delete(conversation.id);
      for (const id of conversation.messages.keys()) kept.delete(id);
    });
  }

  async forget(message) {
    await this.#write((_, kept) => kept.delete(message.id));
  }

  async clear() {
    this.memory.clear();
    this.unwritten = new Unwritten();
    await this.#write((heads, kept) => {
      heads.clear();
      kept.clear();
    });
  }

  #write(change) {
    if (!this.lasts) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const transaction = this.database.transaction(["conversations", "messages"], "readwrite");
      transaction.oncomplete = () => {
        tabs?.postMessage("changed");
        resolve();
      };
      transaction.onabort = () => reject(transaction.error);
      change(transaction.objectStore("conversations"), transaction.objectStore("messages"));
      transaction.commit(); // or it would end with a page that is left now
    });
  }
}

function openDatabase() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("conversations", { keyPath: "id" });
    request.result.createObjectStore("messages", { keyPath: "id" }).createIndex("conversation", "conversation");
  };
  return settled(request);
}
