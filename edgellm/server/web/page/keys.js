// Keys that mean the same wherever a message is written.

// An input method's keys are its own: its Enter ends a word, not the message. Safari has ended the composition by then; 229 tells.
const composes = (event) => event.isComposing || event.keyCode === 229;

export const isSend = (event) => event.key === "Enter" && !event.shiftKey && !composes(event);
export const isEscape = (event) => event.key === "Escape" && !composes(event);

// Enter sends the form of this text.
export function sendsByEnter(area) {
  area.addEventListener("keydown", (event) => {
    if (!isSend(event)) return;
    event.preventDefault();
    area.form.requestSubmit();
  });
}
