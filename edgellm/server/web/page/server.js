// What the server says of itself, asked for again and again: its state, models, plan and activity.

import { get, health } from "/web/page/api.js";

const READY_MS = 5_000;
const WAITING_MS = 1_000;
const ACTIVITY_MS = 2_000;

export class Server extends EventTarget {
  // Events: "state", "plan", "models", "activity", and "key" with whether one is asked for as `detail`.
  status = "connecting";
  reason = "";
  plan = null;
  models = [];
  model = "default"; // the one that is asked
  activity = null;
  locked = false;

  constructor(settings) {
    super();
    this.settings = settings;
  }

  get ready() {
    return this.status === "ok" && !this.locked && this.writes;
  }

  // False = a base model, which only continues text.
  get chats() {
    return this.plan?.chat ?? true;
  }

  get writes() {
    return !this.plan?.can.length || this.plan.can.includes("generate");
  }

  watch() {
    this.#watchState();
    this.#watchActivity();
    for (const name of ["online", "offline"]) addEventListener(name, () => this.#readState());
  }

  async refresh() {
    const { model } = this.settings;
    try {
      this.models = (await get("/v1/models")).data.map(({ id }) => id);
      this.model = this.models.includes(model) ? model : this.models[0] ?? "default";
      this.plan = await this.#told("plan");
      this.#unlock(true);
    } catch (error) {
      if (error.status === 401) this.#unlock(false);
      return;
    }
    this.#tell("plan");
    this.#tell("models");
    await this.#readActivity();
  }

  #told = (of) => get(`/edgellm/${of}?model=${encodeURIComponent(this.model)}`);

  async #watchState() {
    await this.#readState();
    setTimeout(() => this.#watchState(), this.status === "ok" ? READY_MS : WAITING_MS);
  }

  async #readState() {
    const before = this.status;
    const { status, reason } = await health();
    Object.assign(this, { status, reason });
    if (status !== before) {
      this.#tell("state");
      if (status !== "unreachable") await this.refresh();
    }
  }

  async #watchActivity() {
    if (!document.hidden && this.ready) await this.#readActivity();
    setTimeout(() => this.#watchActivity(), ACTIVITY_MS);
  }

  async #readActivity() {
    try {
      this.activity = await this.#told("activity");
      this.#tell("activity");
    } catch {
      // The state tells why.
    }
  }

  #unlock(open) {
    this.locked = !open;
    this.#tell("key", this.locked);
  }

  #tell(name, detail = null) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
