// The list of conversations: open, rename, delete, search, import and export.

import { at, element, icon, iconButton } from "/web/page/dom.js";
import { exportFile } from "/web/page/exported.js";
import { count, plural } from "/web/page/format.js";
import { toast } from "/web/page/toast.js";

const SEARCH_FROM = 8; // conversations
const MOST_ALIKE = 16; // conversations of the same time, which a file may give to many
const DAY_MS = 24 * 60 * 60 * 1000;

export class Sidebar {
  constructor(store, chat, { problem, solved }) {
    Object.assign(this, { store, chat, problem, solved });
    at("new-chat").onclick = () => this.#open(null);
    at("search").oninput = () => this.show();
    at("export").onclick = async () => this.#export(await this.store.heads(), "conversations");
    at("import").onclick = () => at("archive").click();
    at("archive").onchange = async ({ target }) => {
      await this.#import(target.files[0]);
      target.value = "";
    };
  }

  // `meanwhile`: a title that is being typed stays, and the list is shown after it.
  async show(meanwhile) {
    const heads = await this.store.heads();
    at("search").hidden = heads.length < SEARCH_FROM;
    at("not-kept").hidden = this.store.lasts;
    if (meanwhile && at("conversations").querySelector(".rename")) return;
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
      iconButton("export", `Export ${title}`, () => this.#export([head], title)),
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

  async #export(heads, name) {
    const conversations = await Promise.all(heads.map(({ id }) => this.store.load(id)));
    exportFile(conversations.filter(Boolean), name);
  }

  async #import(file) {
    if (!file) return;
    try {
      const { MAX_FILE_BYTES, decode } = await import("/web/page/archive.js");
      if (file.size > MAX_FILE_BYTES) throw new Error(`it is larger than ${MAX_FILE_BYTES / 2 ** 20} MiB.`);
      const conversations = decode(await file.text());
      const fresh = await this.#fresh(conversations);
      for (const conversation of fresh) await this.store.save(conversation, [...conversation.messages.values()]);
      const skipped = conversations.length - fresh.length;
      const told = skipped ? `; ${count(skipped)} ${skipped === 1 ? "was" : "were"} here already` : "";
      this.solved();
      toast(`Imported ${plural(fresh.length, "conversation")}${told}.`);
    } catch (error) {
      this.problem(new Error(`The file was not imported: ${error.message}`));
    }
    this.show();
  }

  // Those that are not here yet, or not whole.
  async #fresh(conversations) {
    const heads = await this.store.heads();
    const isHere = async (imported) => {
      const alike = heads.filter(({ created }) => created === imported.created).slice(0, MOST_ALIKE);
      const kept = await Promise.all(alike.map(({ id }) => this.store.load(id)));
      return kept.some((own) => own?.holds(imported));
    };
    const here = await Promise.all(conversations.map(isHere));
    return conversations.filter((_, place) => !here[place]);
  }
}

function dayOf(time) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (time >= today) return "Today";
  if (time >= today - DAY_MS) return "Yesterday";
  if (time >= today - 6 * DAY_MS) return "This week";
  return new Date(time).toLocaleDateString(undefined, { month: "long", year: "numeric" });
}
