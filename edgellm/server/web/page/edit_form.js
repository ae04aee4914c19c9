// The form in which a message is edited, in place of its text: that, and which files go with it.

import { showFiles } from "/web/page/attached.js";
import { element } from "/web/page/dom.js";
import { isEscape, sendsByEnter } from "/web/page/keys.js";

export default function showEditForm({ message, actions, text, after, foot }) {
  const area = element("textarea", { value: message.content, rows: 3, dir: "auto", "aria-label": "Your message" });
  const files = [...(message.files ?? [])];
  const list = element("ul", { className: "files", "aria-label": "Attached files" });
  showFiles(list, files, () => area.focus());
  const close = () => {
    form.replaceWith(text);
    after.hidden = foot.hidden = false;
    foot.querySelector("button[aria-label=Edit]")?.focus();
  };
  const form = element(
    "form",
    { className: "edit" },
    list,
    area,
    element(
      "div",
      { className: "row" },
      element("button", { type: "button", onclick: close }, "Cancel"),
      element("button", { type: "submit", className: "primary" }, "Send"),
    ),
  );
  form.onsubmit = (event) => {
    event.preventDefault();
    if (area.value.trim() || files.length) actions.edit(message, area.value, files);
  };
  sendsByEnter(area);
  form.onkeydown = (event) => {
    if (!isEscape(event)) return;
    event.stopPropagation();
    close();
  };
  text.replaceWith(form);
  after.hidden = foot.hidden = true;
  area.focus();
}
