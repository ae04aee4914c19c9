// The form in which a message is edited, in place of its text.

import { element } from "/web/page/dom.js";
import { isEscape, sendsByEnter } from "/web/page/keys.js";

export default function showEditForm({ message, actions, text, foot }) {
  const area = element("textarea", { value: message.content, rows: 3, dir: "auto", "aria-label": "Your message" });
  const close = () => {
    form.replaceWith(text);
    foot.hidden = false;
    foot.querySelector("button[aria-label=Edit]")?.focus();
  };
  const form = element(
    "form",
    { className: "edit" },
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
    if (area.value.trim()) actions.edit(message, area.value);
  };
  sendsByEnter(area);
  form.onkeydown = (event) => {
    if (!isEscape(event)) return;
    event.stopPropagation();
    close();
  };
  text.replaceWith(form);
  foot.hidden = true;
  area.focus();
}
