// A file with conversations, read; loaded with the first import. What is read is hostile until every field was checked: it is built anew, field by field,
// with ids of our own, so nothing else of it gets in.

import { Conversation, newId } from "/web/page/conversation.js";
import { FORMAT } from "/web/page/exported.js";

export const MAX_FILE_BYTES = 64 * 2 ** 20;
const MOST_CONVERSATIONS = 5_000;
const MOST_MESSAGES = 20_000; // of one conversation
const MOST_CHARACTERS = 4 * 2 ** 20; // of one text
const MOST_PARTS = 64; // files or calls of one message
const ROLES = ["user", "assistant", "tool"];
const FINISHES = ["stop", "length", "full", "tool_calls", "stopped", "error"];

export class NotAnArchive extends Error {}

// Throws NotAnArchive.
export function decode(text) {
  let archive;
  try {
    archive = JSON.parse(text);
  } catch (error) {
    throw new NotAnArchive(`The file is not JSON: ${error.message}.`);
  }
  check(archive?.format === FORMAT && archive.version === 1, "only files exported from this page are read.");
  return list(archive.conversations, "conversations", MOST_CONVERSATIONS).map(conversationOf);
}

function conversationOf(record, number) {
  const where = `conversations[${number}]`;
  check(isObject(record), `${where} is no object.`);
  const id = newId();
  const ids = new Map([[null, null]]);
  let last = 0;
  const messages = list(record.messages, `${where}.messages`, MOST_MESSAGES).map((message, at) => {
    const made = messageOf(message, `${where}.messages[${at}]`, ids, id);
    ids.set(message.id, made.id);
    last = made.created = Math.max(made.created, last + 1);
    return made;
  });
  const created = time(record.created);
  return new Conversation(
    {
      id,
      title: text(record.title, `${where}.title`).slice(0, 200),
      system: text(record.system, `${where}.system`),
      created,
      updated: time(record.updated, created),
      leaf: ids.get(record.leaf) ?? null,
    },
    messages,
  );
}

// `ids`: ours by those of the file. A parent comes before its children, so there is no circle.
function messageOf(record, where, ids, conversation) {
  check(isObject(record), `${where} is no object.`);
  check(typeof record.id === "string" && !ids.has(record.id), `${where}.id is not a text of its own.`);
  const parent = record.parent ?? null;
  check(ids.has(parent), `${where}.parent is no message before it.`);
  check(ROLES.includes(record.role), `${where}.role is none of ${ROLES.join(", ")}.`);
  const message = {
    id: newId(),
    conversation,
    parent: ids.get(parent),
    created: time(record.created),
    role: record.role,
    content: text(record.content, `${where}.content`),
  };
  if (record.reasoning) message.reasoning = text(record.reasoning, `${where}.reasoning`);
  if (record.model) message.model = text(record.model, `${where}.model`).slice(0, 200);
  if (record.call) message.call = text(record.call, `${where}.call`).slice(0, 200);
  if (FINISHES.includes(record.finish)) message.finish = record.finish;
  if (record.files) message.files = parts(record.files, `${where}.files`, ["name", "text"]);
  if (record.calls) message.calls = parts(record.calls, `${where}.calls`, ["id", "name", "arguments"]);
  if (isObject(record.speed)) message.speed = numbers(record.speed, ["decode_tok_s", "first_s", "tokens", "thought_s", "context"]);
  return message;
}

function parts(records, where, names) {
  return list(records, where, MOST_PARTS).map((record, at) =>
    Object.fromEntries(names.map((name) => [name, text(record?.[name], `${where}[${at}].${name}`)])),
  );
}

function numbers(record, names) {
  return Object.fromEntries(names.filter((name) => Number.isFinite(record[name])).map((name) => [name, record[name]]));
}

function list(value, where, most) {
  check(Array.isArray(value), `${where} is no list.`);
  check(value.length <= most, `${where} has ${value.length} entries; at most ${most} are read.`);
  return value;
}

function text(value, where) {
  if (value === undefined || value === null) return "";
  check(typeof value === "string", `${where} is no text.`);
  check(value.length <= MOST_CHARACTERS, `${where} is longer than ${MOST_CHARACTERS} characters.`);
  return value;
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const time = (value, otherwise = Date.now()) => (Number.isFinite(value) && Math.abs(value) < 8.64e15 ? value : otherwise);

function check(holds, problem) {
  if (!holds) throw new NotAnArchive(problem.slice(0, 300));
}
