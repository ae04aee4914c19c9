// The body of a request for the next message of a conversation.

export const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "max_tokens", "seed"];

// [path, body]. Settings that are not set are the model's own. Throws where one is not JSON.
export function requestFor(messages, system, { settings, model, chats, goesOn = false }) {
  // A question without an answer may be what no request can hold.
  const path = messages.filter(({ role }, at) => role !== "user" || messages[at + 1]?.role !== "user");
  const body = { model, stream_options: { include_usage: true } };
  for (const name of NUMBERS) if (Number.isFinite(settings[name])) body[name] = settings[name];
  if (settings.stop.length) body.stop = settings.stop;
  if (!chats) return ["/v1/completions", { ...body, prompt: path.map(contentOf).join("") }];
  if (settings.effort) body.reasoning_effort = settings.effort;
  if (settings.json && settings.schema.trim()) {
    body.response_format = { type: "json_schema", json_schema: { name: "answer", strict: true, schema: parsed("JSON schema", settings.schema) } };
  } else if (settings.json) {
    body.response_format = { type: "json_object" };
  }
  if (settings.tools.trim()) body.tools = parsed("Tools", settings.tools);
  if (goesOn) Object.assign(body, { continue_final_message: true, add_generation_prompt: false });
  const start = system.trim() ? [{ role: "system", content: system }] : [];
  return ["/v1/chat/completions", { ...body, messages: [...start, ...path.map(sent)] }];
}

function parsed(name, text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`${name} in the settings must be JSON: ${error.message}.`);
  }
}

function sent(message) {
  const { role, content, calls, call, reasoning } = message;
  if (role === "tool") return { role, content, tool_call_id: call };
  if (role === "user") return { role, content: contentOf(message) };
  const tool_calls = calls?.map(({ id, name, arguments: text }) => ({ id, type: "function", function: { name, arguments: text } }));
  return {
    role,
    content,
    // Some templates want what was thought between the calls of a turn.
    ...(reasoning && calls ? { reasoning_content: reasoning } : {}),
    ...(tool_calls?.length ? { tool_calls } : {}),
  };
}

function contentOf({ content, files = [] }) {
  return [...files.map(({ name, text }) => `File ${name}:\n${fenced(text)}\n`), content].join("\n");
}

// The fence is longer than any in the text.
function fenced(text) {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([run]) => run.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}\n${text}\n${fence}`;
}
