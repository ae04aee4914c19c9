// Files that go with a message: read, and listed with what takes each out again.

import { element, icon, iconButton } from "/web/page/dom.js";
import { count } from "/web/page/format.js";

const MOST_FILES = 16;
const MAX_FILE_BYTES = 512 * 1024;

// Those that can be sent beside `attached`; `problem(error)` for each other.
export async function readFiles(files, attached, problem) {
  const read = [];
  for (const file of files) {
    try {
      if (attached.length + read.length >= MOST_FILES) throw new Error(`at most ${MOST_FILES} files go with a message`);
      read.push({ name: file.name.slice(0, 200), text: await readText(file) });
    } catch (error) {
      problem(new Error(`${file.name.slice(0, 200)} is not attached: ${error.message}.`));
    }
  }
  return read;
}

// In the element `list`. What is removed leaves the array `files`, then `removed()` is called.
export function showFiles(list, files, removed) {
  const items = files.map((file) => {
    const remove = iconButton("close", `Remove ${file.name}`, () => {
      files.splice(files.indexOf(file), 1);
      showFiles(list, files, removed);
      removed();
    });
    const size = element("small", {}, `${count(file.text.length)} characters`);
    return element("li", {}, icon("file"), element("bdi", {}, file.name), size, remove);
  });
  list.replaceChildren(...items);
  list.hidden = files.length === 0;
}

async function readText(file) {
  if (file.size > MAX_FILE_BYTES) throw new Error(`it has more than ${MAX_FILE_BYTES / 1024} KiB`);
  if (!file.size) throw new Error("it is empty");
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    if (!text.includes("\0")) return text;
  } catch {
    // Told below.
  }
  throw new Error("it is not text in UTF-8");
}
