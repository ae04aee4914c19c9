// What the user set, kept in this browser. What is not set is the model's own.

const KEY = "edgellm-settings";
const DEFAULTS = {
  theme: "", // "" = as the system
  model: "", // "" = the first
  system: "",
  temperature: null,
  top_p: null,
  top_k: null,
  min_p: null,
  repetition_penalty: null,
  presence_penalty: null,
  max_tokens: 2048,
  seed: null,
  stop: [],
  effort: "",
  json: false,
  schema: "",
  tools: "",
};

export function loadSettings() {
  let kept = {};
  try {
    kept = JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    // Not ours, or no storage.
  }
  const ours = Object.entries(DEFAULTS).map(([name, value]) => [name, sameKind(kept[name], value) ? kept[name] : value]);
  return Object.fromEntries(ours);
}

export function keepSettings(settings) {
  try {
    localStorage.setItem(KEY, JSON.stringify(settings));
  } catch {
    // They last until the page is closed.
  }
}

function sameKind(value, normal) {
  if (Array.isArray(normal)) return Array.isArray(value) && value.every((one) => typeof one === "string");
  if (normal === null || typeof normal === "number") return value === null || Number.isFinite(value);
  return typeof value === typeof normal;
}

// The theme counts before anything is drawn.
export function applyTheme({ theme }) {
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}
