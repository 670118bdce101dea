// The chat pages: live text, scrolling that does not fight the reader, keys, copying.
//
// Text is appended as text nodes while an answer is written and replaced once, by the sanitised
// HTML the server sends with its end. Everything else on the page is forms.

import { keyOf } from "./keys.js";
import { announce, appendText, hideAndFocus, showErrorIn } from "./site.js";
import { openStream } from "./stream.js";

const KEYS_STORED = "stagecraft.chat.keys";
const NEAR_BOTTOM_PX = 80;

const composer = document.getElementById("composer");
const draft = composer?.querySelector("textarea");
const sendButton = document.getElementById("send");
const stopButton = document.getElementById("stop");
const jump = document.getElementById("jump");
const keysDialog = document.getElementById("keys");
const thread = () => document.getElementById("thread");
const turnOf = (message) => document.querySelector(`[data-message="${CSS.escape(message)}"]`);
const isLive = (turn) => ["queued", "running"].includes(turn.dataset.state);
const liveTurns = () => [...document.querySelectorAll("[data-message]")].filter(isLive);

// -- live answers --------------------------------------------------------------------------------

const unshown = new Map(); // answer id -> text that came since the last frame was drawn

function showText() {
  if (!unshown.size) return;
  keepingPlace(() => {
    for (const [message, text] of unshown) {
      const answer = turnOf(message)?.querySelector("[data-answer]");
      if (answer) appendText(answer, text);
    }
    unshown.clear();
  });
}

const stream = thread()
  ? openStream(thread().dataset.conversation, {
      onToken({ message, text }) {
        if (!unshown.size) requestAnimationFrame(showText);
        unshown.set(message, (unshown.get(message) ?? "") + text);
      },
      onEnd(frame) {
        unshown.delete(frame.message); // the end carries the whole text
        keepingPlace(() => finish(turnOf(frame.message), frame));
        showWhetherLive();
        announce(endSentence(frame));
        passOverSameAnswers();
      },
      onError(text) {
        showError(text);
      },
      onReconnect() {
        showError("");
        announce("Connected again");
      },
    })
  : null;

function endSentence({ state, error }) {
  if (state === "failed") return error || "The answer failed";
  return state === "stopped" ? "Stopped" : "Answer complete";
}

function finish(turn, frame) {
  if (!turn) return;
  const answer = turn.querySelector("[data-answer]");
  answer.classList.remove("is-streaming");
  answer.innerHTML = frame.html; // sanitised by the server: no attributes, no links, no scripts
  answer.dataset.text = frame.text;
  const error = turn.querySelector("[data-error]");
  error.textContent = frame.error;
  error.hidden = !frame.error;
  turn.querySelector("[data-empty]").hidden = Boolean(frame.text || frame.error);
  turn.dataset.state = frame.state;
  if (turn.dataset.finish !== undefined) turn.dataset.finish = frame.finish_reason;
  addCopyToCode(answer);
}

/** Two answers that came out the same are no choice: the thread as it is now goes on from one of them. */
function passOverSameAnswers() {
  const answers = [...document.querySelectorAll("[data-offer] [data-answer]")];
  if (answers.length !== 2 || liveTurns().length) return;
  if (answers[0].dataset.text.trim() !== answers[1].dataset.text.trim()) return;
  const [leaf, as_of] = ["leaf", "as_of"].map((name) => composer.elements[name].value);
  htmx.ajax("GET", location.pathname, { source: "#thread", swap: "thread show:none", values: { leaf, as_of } });
}

function attachAll() {
  for (const turn of liveTurns()) stream.attach(turn.dataset.message, turn.dataset.after);
  for (const answer of document.querySelectorAll("[data-answer]:not(.is-streaming)")) addCopyToCode(answer);
  showWhetherLive();
}

// An answer to a form begins behind the turn `data-kept` names: what is above it stays as it is.
htmx.defineExtension("thread", {
  handleSwap(style, target, fragment) {
    const fresh = fragment.querySelector("#thread");
    if (style !== "thread" || !fresh) return false;
    const { kept } = fresh.dataset;
    const last = kept && target.querySelector(`:scope > [data-turn="${CSS.escape(kept)}"]`);
    if (kept && !last) location.reload(); // it shows another branch than it says
    while (last ? last.nextSibling : target.firstChild) (last ? last.nextSibling : target.firstChild).remove();
    target.dataset.checkpoint = fresh.dataset.checkpoint;
    const added = [...fresh.childNodes];
    target.append(...added);
    return added;
  },
});

/** A thread has come onto the page: follow what is live, and show where the reading goes on. */
function showThread({ stays = false } = {}) {
  unshown.clear(); // it belonged to what was here before
  attachAll();
  const offer = document.querySelector("[data-offer]");
  if (stays) document.activeElement.scrollIntoView({ block: "nearest" }); // htmx has given the focus back
  else if (offer) offer.scrollIntoView({ block: "start" });
  else toBottom();
  if (liveTurns().length) announce("Generating");
}

function showWhetherLive() {
  const live = liveTurns().length > 0;
  if (!live) jump.hidden = true; // it would lie over what there is to read and to press
  const [shown, hidden] = live ? [stopButton, sendButton] : [sendButton, stopButton];
  shown.hidden = false;
  hideAndFocus(hidden, draft);
}

function stopAll() {
  for (const turn of liveTurns()) stream.stop(turn.dataset.message);
  announce("Stopping");
}

stopButton?.addEventListener("click", stopAll);

// -- scrolling -----------------------------------------------------------------------------------

const isNearBottom = () =>
  window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - NEAR_BOTTOM_PX;
const toBottom = () => window.scrollTo({ top: document.documentElement.scrollHeight });

/** Change the page; a reader at the bottom stays there, one further up (or comparing two answers) is only told. */
function keepingPlace(change) {
  const follow = isNearBottom() && !document.querySelector("[data-offer]");
  change();
  if (follow) toBottom();
  else if (!isNearBottom()) jump.hidden = false;
}

jump?.addEventListener("click", () => {
  toBottom();
  jump.hidden = true;
});
window.addEventListener("scroll", () => {
  if (jump && isNearBottom()) jump.hidden = true;
}, { passive: true });

// -- the composer --------------------------------------------------------------------------------

/** What to say of an answer that is no success. 403: the form is from before a log-in or log-out in another tab. */
function complaint(status, text) {
  if ([400, 403, 422, 429, 503].includes(status) && text && !text.startsWith("<")) return text; // a page is some proxy's
  if (status === 403) return "This page is out of date. Copy your text, reload the page, then send it.";
  if (status === 404) return "That is no longer here. Reload the page.";
  return status >= 400 ? "Something went wrong on the site. Your text is still here; try again." : "";
}

function showError(text) {
  showErrorIn("composer-error", text);
}

draft?.addEventListener("keydown", (event) => {
  if (keyOf(event) !== "enter" || event.shiftKey) return;
  event.preventDefault();
  if (liveTurns().length) showError("The answer is still being written. Wait for it, or stop it.");
  else composer.requestSubmit(sendButton);
});

// Kept as soon as it is changed, so that a reload and the next answer have it.
composer?.addEventListener("change", async (event) => {
  if (event.target === draft || !composer.dataset.settings) return;
  const response = await fetch(composer.dataset.settings, {
    method: "POST",
    body: new FormData(composer),
    headers: { "HX-Request": "true" },
    redirect: "manual",
  });
  showError(complaint(response.status, await response.text()));
});

document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr } = event.detail;
  showError(complaint(xhr.status, xhr.responseText));
});
document.addEventListener("htmx:sendError", () =>
  showError("The site could not be reached. Your text is still here; try again."),
);

document.addEventListener("htmx:afterSwap", (event) => {
  if (!thread() || event.detail.target.id !== "thread") return;
  const { elt, path, verb } = event.detail.requestConfig;
  if (path === composer.getAttribute("action")) draft.value = "";
  composer.elements.checkpoint.value = thread().dataset.checkpoint;
  // Who browses versions is reading there; a GET is this page's own.
  showThread({ stays: verb === "get" || elt.closest(".branches") !== null });
});

// -- copying -------------------------------------------------------------------------------------

function addCopyToCode(answer) {
  for (const code of answer.querySelectorAll("pre")) {
    if (code.parentElement.classList.contains("code-box")) continue;
    const box = document.createElement("div");
    box.className = "code-box";
    code.replaceWith(box);
    const button = document.createElement("button");
    button.type = "button";
    button.className = "btn btn-quiet btn-small";
    button.dataset.copyCode = "";
    button.textContent = "Copy";
    box.append(code, button);
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy], [data-copy-code]");
  if (!button) return;
  const code = "copyCode" in button.dataset;
  const source = code ? button.parentElement.querySelector("pre") : button.closest(".turn").querySelector("[data-answer]");
  try {
    await navigator.clipboard.writeText(code ? source.textContent : (source.dataset.text ?? source.innerText));
    button.textContent = "Copied";
    announce("Copied");
    setTimeout(() => (button.textContent = "Copy"), 1500);
  } catch {
    announce("The browser does not allow copying here");
    button.textContent = "Not allowed";
  }
});

// -- keys ----------------------------------------------------------------------------------------

function keysAreOn() {
  try {
    return localStorage.getItem(KEYS_STORED) !== "off";
  } catch {
    return true; // storage is forbidden: keys work, the choice is just not kept
  }
}

const keysOn = document.getElementById("keys-on");
if (keysDialog) {
  keysOn.checked = keysAreOn();
  keysOn.addEventListener("change", () => {
    try {
      localStorage.setItem(KEYS_STORED, keysOn.checked ? "on" : "off");
    } catch {
      // Not kept, as above.
    }
  });
  const open = document.getElementById("open-keys");
  open.hidden = false;
  open.addEventListener("click", () => keysDialog.showModal());
}

document.addEventListener("keydown", (event) => {
  if (!draft || event.ctrlKey || event.metaKey || event.altKey || event.repeat || keysDialog?.open) return;
  if (!keysAreOn()) return;
  const key = keyOf(event);
  if (key === "escape" && liveTurns().length) {
    event.preventDefault();
    stopAll();
    return;
  }
  if (event.target.closest("input, textarea, select, [contenteditable]")) return;
  const choice = document.querySelector(`[data-offer] [data-key="${CSS.escape(key)}"]`);
  if (choice) {
    event.preventDefault();
    choice.click();
  } else if (key === "/") {
    event.preventDefault();
    draft.focus();
  } else if (key === "?" && keysDialog) {
    event.preventDefault();
    keysDialog.showModal();
  }
});

if (stream && document.querySelector(".turn")) showThread();
