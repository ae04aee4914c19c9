// The conversation at hand: what is asked, answered, edited and kept.

import { Answer } from "/web/page/answer.js";
import { Conversation } from "/web/page/conversation.js";
import { requestFor } from "/web/page/request.js";
import { Thread } from "/web/page/thread.js";

const SAVE_MS = 2_000; // between two writes of an answer that grows

export class Chat extends EventTarget {
  // Events: "state" (an answer began or ended), "kept" (something was stored), and with the error as `detail`
  // "failed" (an answer, which `retry` asks for again) and "problem".
  constructor(store, settings, server) {
    super();
    Object.assign(this, { store, settings, server });
    this.answer = null;
    this.thread = new Thread(this.#actions());
    this.show(null);
  }

  // null = a new one, which is stored once something was asked.
  open(conversation) {
    this.show(conversation);
    this.store.opened = this.conversation.id;
  }

  // What this tab showed before it was loaded again.
  async openLast() {
    const id = this.store.opened;
    const conversation = id && (await this.store.load(id).catch(() => null));
    if (conversation) this.show(conversation);
    else this.store.opened = this.conversation.id;
  }

  show(conversation) {
    this.stop();
    this.answer = null;
    this.again = null;
    this.conversation = conversation ?? new Conversation({ system: this.settings.system });
    this.thread.show(this.conversation);
    this.#tell("state");
  }

  ask(text, files = []) {
    const message = this.conversation.add({ role: "user", content: text, ...(files.length ? { files } : {}) });
    this.thread.add(message, this.conversation.siblings(message));
    this.#keep(message);
    return this.#answer();
  }

  // What failed, again. Text that came stays, as a branch.
  retry() {
    if (!this.answer) this.again?.();
  }

  stop() {
    this.answer?.stop();
  }

  // The page is left: what has come of an answer is kept now.
  leave() {
    if (this.answer) this.#keep(this.answer.message);
    this.store.leave();
    this.stop();
  }

  setSystem(system) {
    if (system === this.conversation.system) return;
    this.conversation.system = system;
    if (this.conversation.messages.size) this.#keep();
  }

  // An answer to `parent`, or more of the one that `goesOn`.
  async #answer(parent = this.conversation.leaf, goesOn = null) {
    const { conversation, settings, server } = this;
    const { leaf } = conversation;
    if (parent !== leaf) {
      conversation.leaf = parent;
      this.thread.show(conversation);
    }
    const history = conversation.pathTo(goesOn?.id ?? parent);
    const message = goesOn ?? conversation.add({ role: "assistant", model: server.model });
    this.again = null;
    const view = this.thread.begin(message);
    let written = performance.now();
    const answer = new Answer(message, (kind, text) => {
      view.grow(kind, text);
      this.thread.follow();
      if (performance.now() - written < SAVE_MS) return;
      written = performance.now();
      this.#keep(message, conversation);
    });
    this.answer = answer;
    this.#keep(message, conversation);
    this.#tell("state");
    const { model, chats } = server;
    const request = () => requestFor(history, conversation.system, { settings, model, chats, goesOn: goesOn !== null });
    const problem = await answer.run(request, () => server.plan?.settings.n_ctx);
    if (this.answer === answer) this.answer = null;
    if (isEmpty(message) && message.finish === "error") {
      conversation.leaf = leaf;
      this.#drop(message, conversation);
      if (this.conversation === conversation) this.thread.show(conversation);
    } else {
      view.end(conversation.siblings(message));
      this.thread.follow();
      this.#keep(message, conversation);
    }
    this.#tell("state", message);
    if (!problem) return;
    if (this.conversation === conversation) this.again = () => this.#answer(parent, goesOn);
    this.#tell("failed", problem);
  }

  #actions() {
    const chat = this;
    return {
      canGoOn: ({ finish, speed }) => {
        const { chats, plan } = chat.server;
        return chats && (finish === "length" || (finish === "full" && plan?.settings.n_ctx > speed?.context));
      },
      awaits: (message, call) => {
        const path = chat.conversation.path;
        const later = path.slice(path.indexOf(message) + 1);
        return !later.some((other) => other.call === call.id);
      },
      select: (id) => {
        if (chat.answer) return;
        chat.conversation.select(id);
        chat.thread.show(chat.conversation);
        chat.#keep();
      },
      edit: (message, content, files) => chat.#branch(message, { role: "user", content, files }),
      regenerate: (message) => {
        if (!chat.answer) chat.#again(message, isEmpty(message) && message.id === chat.conversation.leaf);
      },
      answer: ({ id }) => {
        if (!chat.answer) chat.#answer(id);
      },
      goOn: (message) => {
        if (!chat.answer) chat.#answer(undefined, message);
      },
      grew: () => chat.thread.follow(),
      answerCall: (call, content) => chat.#answerCall(call, content),
    };
  }

  // Another answer in its place, or beside it.
  #again(message, dropped) {
    if (dropped) {
      this.#drop(message);
      this.thread.show(this.conversation);
    }
    this.#answer(message.parent);
  }

  #branch(message, fields) {
    if (this.answer) return;
    const sibling = this.conversation.add(fields, message.parent);
    this.thread.show(this.conversation);
    this.#keep(sibling);
    this.#answer();
  }

  // Once every call of the turn has its result, the model goes on.
  #answerCall(call, content) {
    if (this.answer) return;
    const message = this.conversation.add({ role: "tool", call: call.id, content });
    this.#keep(message);
    this.thread.show(this.conversation);
    const turn = this.conversation.path.findLast((other) => other.calls?.some(({ id }) => id === call.id));
    const open = turn.calls.some((other) => this.thread.actions.awaits(turn, other));
    if (!open) this.#answer();
  }

  #drop(message, conversation = this.conversation) {
    conversation.drop(message);
    this.store.forget(message).catch(() => {});
    this.#keep(undefined, conversation);
  }

  async #keep(message, conversation = this.conversation) {
    try {
      await this.store.save(conversation, message ? [message] : []);
      this.#tell("kept");
    } catch (error) {
      const full = error?.name === "QuotaExceededError";
      const cause = full ? "this browser has no room left for this page" : String(error?.message ?? error);
      this.#tell("problem", new Error(`The conversation is not kept: ${cause}. Export it, and delete others.`));
    }
  }

  #tell(name, detail = null) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

const isEmpty = ({ content, reasoning, calls }) => !content && !reasoning && !calls;
