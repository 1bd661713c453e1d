// Elements, texts and times. Everything that comes from a job is hostile: it becomes text, never markup.

/** An element with attributes, event handlers (`onclick`) and children: elements, or texts. */
export function el(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name || "div");
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Replace the children of an element, unless they look the same already: focus and selection stay. */
export function fill(parent, ...children) {
  const draft = el(parent.tagName.toLowerCase(), {}, ...children);
  if (!same(draft, parent)) parent.replaceChildren(...draft.childNodes);
}

function same(a, b) {
  return a.childNodes.length === b.childNodes.length && [...a.childNodes].every((node, i) => node.isEqualNode(b.childNodes[i]));
}

const UNITS = [["d", 86400], ["h", 3600], ["min", 60]];

export function age(seconds) {
  const found = UNITS.find(([, size]) => seconds >= size);
  return found ? `${Math.floor(seconds / found[1])} ${found[0]}` : `${Math.max(0, Math.floor(seconds))} s`;
}

export const now = () => Date.now() / 1000;
export const since = (at) => age(now() - at);

export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const two = (n) => String(n).padStart(2, "0");
  return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
}

export const time = (at) => new Date(at * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "medium" });
export const hour = (at) => new Date(at * 1000).toLocaleTimeString();

export function size(bytes) {
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}

export const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

// A sign for each state, so that colour is not the only one.
const SIGNS = { completed: "✓", failed: "✕", deleted: "–", done: "✓", running: "▶", waiting: "·", planned: "" };

export const sign = (state) => SIGNS[state] ?? "…";

export function pill(status) {
  return el(`span.pill.is-${status}`, {}, el("span", { "aria-hidden": "true" }, SIGNS[status] ?? "●"), status.replaceAll("_", " "));
}

export function bar(done, total, label) {
  const fillBar = el("span");
  fillBar.style.width = `${total ? (100 * done) / total : 0}%`;
  return el("span.bar", { role: "progressbar", "aria-valuemin": 0, "aria-valuemax": total ?? 0, "aria-valuenow": done ?? 0, "aria-label": label }, fillBar);
}

/** `3,7-9` for [3, 7, 8, 9]. */
export function ranges(numbers) {
  const parts = [];
  for (const n of [...numbers].sort((a, b) => a - b)) {
    const last = parts.at(-1);
    if (last && last[1] === n - 1) last[1] = n;
    else parts.push([n, n]);
  }
  return parts.map(([a, b]) => (a === b ? `${a}` : `${a}-${b}`)).join(",");
}
