// The buttons: each asks first, then sends a request with the page's token.

import { el } from "./dom.js";

const TOKEN = document.querySelector("meta[name=action-token]").content;

export function toast(text, kind = "good") {
  const note = el(`p.toast.is-${kind}`, {}, text);
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), kind === "good" ? 6000 : 15000);
}

/** Ask. Resolves to null, or to `{ checked }`. */
export function ask({ title, text, action, option = null, danger = false }) {
  const $ = (id) => document.getElementById(id);
  const dialog = $("confirm");
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = action;
  $("confirm-yes").className = danger ? "danger" : "primary";
  $("confirm-option").hidden = !option;
  $("confirm-option").lastElementChild.textContent = option ?? "";
  $("confirm-check").checked = false;
  dialog.returnValue = "no";
  dialog.showModal();
  $("confirm-no").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes" ? { checked: $("confirm-check").checked } : null), { once: true });
  });
}

/** Send a request. Resolves to the answer, or to null after an error was displayed. */
export async function act(request) {
  try {
    const response = await fetch("/api/act", {
      method: "POST",
      headers: { "content-type": "application/json", "x-media-worker-action": TOKEN },
      body: JSON.stringify(request),
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    toast(answer.detail);
    return answer;
  } catch (error) {
    toast(error instanceof TypeError ? "the server of this page does not answer: is `media-worker ui` still running?" : error.message, "bad");
    return null;
  }
}

/** A button that asks, is disabled while its request is on the way, and calls `after` if it succeeded. */
export function verbButton(label, question, request, { danger = false, after = () => {} } = {}) {
  const button = el(`button${danger ? ".danger" : ""}`, { type: "button", onclick: run }, label);
  async function run() {
    const answer = await ask(typeof question === "function" ? question() : question);
    if (!answer) return;
    button.disabled = true;
    button.setAttribute("aria-busy", "true");
    const done = await act(request(answer));
    button.disabled = false;
    button.removeAttribute("aria-busy");
    if (done) after(done);
  }
  return button;
}
