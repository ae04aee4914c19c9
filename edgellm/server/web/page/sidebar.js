// The list of conversations: open, rename, delete, search, import and export.

import { MAX_FILE_BYTES, decode, encode } from "/web/page/archive.js";
import { at, element, icon, iconButton } from "/web/page/dom.js";
import { plural } from "/web/page/format.js";
import { toast } from "/web/page/toast.js";

const SEARCH_FROM = 8; // conversations
const DAY_MS = 24 * 60 * 60 * 1000;

export class Sidebar {
  constructor(store, chat, { problem }) {
    Object.assign(this, { store, chat, problem });
    at("new-chat").onclick = () => this.#open(null);
    at("search").oninput = () => this.show();
    at("export").onclick = () => this.#exportAll();
    at("import").onclick = () => at("archive").click();
    at("archive").onchange = async ({ target }) => {
      await this.#import(target.files[0]);
      target.value = "";
    };
  }

  async show() {
    const heads = await this.store.heads();
    at("search").hidden = heads.length < SEARCH_FROM;
    at("not-kept").hidden = this.store.lasts;
    const sought = at("search").value.trim().toLowerCase();
    const matching = heads.filter(({ title }) => title.toLowerCase().includes(sought));
    const groups = new Map();
    for (const head of matching) {
      const day = dayOf(head.updated);
      if (!groups.has(day)) groups.set(day, []);
      groups.get(day).push(head);
    }
    const empty = element("p", { className: "none" }, heads.length ? "None has this in its title." : "Conversations you have are kept here, in this browser.");
    at("conversations").replaceChildren(
      ...(groups.size ? [] : [empty]),
      ...[...groups].map(([day, ones]) => element("section", {}, element("h3", {}, day), element("ul", {}, ...ones.map((head) => this.#item(head))))),
    );
  }

  #item(head) {
    const title = head.title || "Untitled";
    const open = element("button", { type: "button", className: "title", dir: "auto", onclick: () => this.#openById(head.id) }, title);
    if (head.id === this.chat.conversation.id) open.setAttribute("aria-current", "true");
    const item = element(
      "li",
      {},
      open,
      iconButton("edit", `Rename ${title}`, () => this.#rename(item, head)),
      iconButton("export", `Export ${title}`, async () => save([await this.store.load(head.id)], title)),
      iconButton("delete", `Delete ${title}`, () => this.#delete(head)),
    );
    return item;
  }

  #open(conversation) {
    document.body.classList.remove("list");
    this.chat.open(conversation);
    this.show();
    at("text").focus();
  }

  async #openById(id) {
    const conversation = await this.store.load(id);
    if (conversation) this.#open(conversation);
    else this.show();
  }

  #rename(item, head) {
    const name = element("input", { value: head.title, maxLength: 200, dir: "auto", "aria-label": "Title" });
    const form = element("form", { className: "rename" }, name);
    form.onsubmit = async (event) => {
      event.preventDefault();
      const own = head.id === this.chat.conversation.id;
      const conversation = own ? this.chat.conversation : await this.store.load(head.id);
      if (conversation && name.value.trim()) {
        conversation.title = name.value.trim();
        await this.store.save(conversation, []);
      }
      this.show();
    };
    name.onkeydown = (event) => {
      if (event.key === "Escape") this.show();
    };
    item.replaceChildren(form);
    name.select();
  }

  async #delete({ id, title }) {
    const conversation = await this.store.load(id);
    if (!conversation) return;
    await this.store.remove(conversation);
    if (id === this.chat.conversation.id) this.chat.open(null);
    await this.show();
    toast(`Deleted “${title}”.`, "Undo", async () => {
      await this.store.save(conversation, [...conversation.messages.values()]);
      this.show();
    });
  }

  async #exportAll() {
    const heads = await this.store.heads();
    save(await Promise.all(heads.map(({ id }) => this.store.load(id))), "conversations");
  }

  async #import(file) {
    if (!file) return;
    try {
      if (file.size > MAX_FILE_BYTES) throw new Error(`it is larger than ${MAX_FILE_BYTES / 2 ** 20} MiB.`);
      const conversations = decode(await file.text());
      for (const conversation of conversations) await this.store.save(conversation, [...conversation.messages.values()]);
      toast(`Imported ${plural(conversations.length, "conversation")}.`);
    } catch (error) {
      this.problem(new Error(`The file was not imported: ${error.message}`));
    }
    this.show();
  }
}

function save(conversations, name) {
  const url = URL.createObjectURL(new Blob([encode(conversations.filter(Boolean))], { type: "application/json" }));
  const stem = name.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60) || "conversation";
  element("a", { href: url, download: `${stem}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function dayOf(time) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (time >= today) return "Today";
  if (time >= today - DAY_MS) return "Yesterday";
  if (time >= today - 6 * DAY_MS) return "This week";
  return new Date(time).toLocaleDateString(undefined, { month: "long", year: "numeric" });
}
