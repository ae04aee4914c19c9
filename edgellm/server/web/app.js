// The page: chat with streaming, and what runs here and why. The text of the model is only ever inserted as text.
import { showPlan } from "/web/plan.js";
import { readEvents } from "/web/sse.js";

const at = (id) => document.getElementById(id);
const POLL_MS = 1000;

const page = {
  turns: [], // {role, content}, as they are sent
  answering: null, // AbortController of the answer in progress
  state: "connecting",
  chats: true, // false = a base model, which only continues text
};

// The key is kept until this tab is closed.
const key = () => sessionStorage.getItem("edgellm-key") ?? "";

function headers() {
  return key() ? { authorization: `Bearer ${key()}` } : {};
}

// Server state.

async function watch() {
  const before = page.state;
  let told = { status: "unreachable", reason: "" };
  try {
    told = await (await fetch("/health")).json();
  } catch {
    // The server does not answer; it may in the next round.
  }
  page.state = told.status;
  at("dot").dataset.state = told.status;
  at("state-text").textContent = stateText(told);
  at("send").disabled = told.status !== "ok";
  if (told.status !== before) await loadPlan();
  setTimeout(watch, told.status === "ok" ? 5 * POLL_MS : POLL_MS);
}

function stateText({ status, reason }) {
  if (status === "ok") return "ready";
  if (status === "loading") return "the model is loading";
  if (status === "unreachable") return "the server does not answer: is it still running?";
  return `the model is not running: ${reason || status}`;
}

async function loadPlan() {
  let answer;
  try {
    answer = await fetch("/edgellm/plan", { headers: headers() });
  } catch {
    return;
  }
  at("key-form").hidden = answer.status !== 401;
  if (!answer.ok) return;
  const plan = await answer.json();
  page.chats = plan.chat;
  showPlan(plan);
  const row = plan.sampling_facts?.parts.find(({ values }) => values.temperature !== undefined);
  if (row) at("temperature").placeholder = row.values.temperature;
  if (plan.can.length && !plan.can.includes("generate")) {
    at("empty-title").textContent = "Nothing to chat with";
    at("empty-text").textContent =
      "This model turns texts into vectors or scores. Use /v1/embeddings or /v1/rerank; /docs describes them.";
    at("text").disabled = true;
    at("text").placeholder = "This model writes no text";
  } else if (!plan.chat) {
    at("empty-title").textContent = "Begin a text";
    at("empty-text").textContent = "This is a base model: it continues what you write, and does not chat.";
  }
}

// Chat.

function addTurn(role, text) {
  at("empty").hidden = true;
  const turn = document.createElement("div");
  turn.className = `turn ${role}`;
  turn.append(document.createTextNode(text));
  at("log").append(turn);
  turn.scrollIntoView({ block: "end" });
  return turn;
}

function requestBody() {
  const shared = { stream: true };
  // Empty, the model's own temperature counts, which the plan tells.
  const temperature = Number.parseFloat(at("temperature").value);
  if (temperature >= 0) shared.temperature = temperature;
  const limit = Number.parseInt(at("limit").value, 10);
  if (limit > 0) shared.max_tokens = limit;
  if (!page.chats) return ["/v1/completions", { ...shared, prompt: page.turns.at(-1).content }];
  const system = at("system").value.trim();
  const start = system ? [{ role: "system", content: system }] : [];
  return ["/v1/chat/completions", { ...shared, messages: [...start, ...page.turns] }];
}

async function ask(text) {
  page.turns.push({ role: "user", content: text });
  addTurn("user", text);
  await answer();
}

async function answer() {
  const abort = new AbortController();
  page.answering = abort;
  showProblem(null);
  setBusy(true);
  const turn = addTurn("assistant", "");
  turn.classList.add("working");
  const said = { text: "", turn, began: performance.now(), first: 0, timings: null, reason: "" };
  let problem = null;
  try {
    await stream(said, abort.signal);
  } catch (error) {
    if (error.name !== "AbortError") problem = error;
  }
  turn.classList.remove("working");
  setBusy(false);
  page.answering = null;
  if (said.text) page.turns.push({ role: "assistant", content: said.text });
  else turn.remove();
  if (said.reason === "length") note(turn, "cut off at the longest answer");
  if (abort.signal.aborted && said.text) note(turn, "stopped");
  if (problem) showProblem(problem);
  showStats(said);
}

async function stream(said, signal) {
  const [path, body] = requestBody();
  let response;
  try {
    response = await fetch(path, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers() },
      body: JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Start it again with `edgellm serve`, then try again.");
  }
  if (!response.ok) {
    if (response.status === 401) at("key-form").hidden = false;
    throw new Error(await errorText(response));
  }
  for await (const event of readEvents(response.body)) {
    if (event.error) throw new Error(event.error.message);
    const choice = event.choices[0];
    if (event.timings) said.timings = event.timings;
    if (choice?.finish_reason) said.reason = choice.finish_reason;
    append(said, choice?.delta?.content ?? choice?.text ?? "");
  }
}

async function errorText(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered ${response.status} ${response.statusText}.`;
  }
}

function append(said, text) {
  if (!text) return;
  said.first ||= performance.now();
  said.text += text;
  const log = at("log");
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  said.turn.firstChild.appendData(text);
  if (follows) log.scrollTop = log.scrollHeight;
}

function note(turn, text) {
  const line = document.createElement("span");
  line.className = "note";
  line.textContent = text;
  turn.append(line);
}

function showStats({ timings, first, began }) {
  if (!timings) return;
  const rate = timings.decode_tok_s ? `${timings.decode_tok_s.toFixed(1)} tok/s` : "";
  const wait = first ? `first text after ${((first - began) / 1000).toFixed(2)} s` : "";
  at("stats").textContent = [rate, wait].filter(Boolean).join(", ");
}

function showProblem(error) {
  at("problem").hidden = error === null;
  at("problem-text").textContent = error?.message ?? "";
}

function setBusy(busy) {
  at("send").hidden = busy;
  at("stop").hidden = !busy;
  at("log").setAttribute("aria-busy", String(busy));
}

// What the user does.

function submit() {
  const text = at("text").value;
  if (!text.trim() || page.answering || page.state !== "ok") return;
  at("text").value = "";
  ask(text);
}

function reset() {
  page.answering?.abort();
  page.turns = [];
  for (const turn of document.querySelectorAll(".turn")) turn.remove();
  at("empty").hidden = false;
  at("stats").textContent = "";
  showProblem(null);
  at("text").focus();
}

at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
at("text").addEventListener("keydown", (event) => {
  // An input method's Enter ends a word, not the message.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") page.answering?.abort();
});
at("stop").addEventListener("click", () => {
  page.answering?.abort();
  at("text").focus();
});
at("retry").addEventListener("click", () => {
  // The part of the answer that came before the error is dropped.
  if (page.turns.at(-1)?.role === "assistant") {
    page.turns.pop();
    [...document.querySelectorAll(".turn")].at(-1)?.remove();
  }
  if (page.turns.length) answer();
});
at("reset").addEventListener("click", reset);
at("why-toggle").addEventListener("click", () => {
  const shown = document.body.classList.toggle("why");
  at("why-toggle").setAttribute("aria-expanded", String(shown));
  at("why-toggle").textContent = shown ? "Back to the chat" : "What runs here";
});
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("edgellm-key", at("key").value);
  at("key").value = "";
  showProblem(null);
  loadPlan();
});

watch();
