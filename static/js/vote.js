// The voting page: keys, what is said aloud after a swap, and errors that must not pass in silence.

import { keyOf } from "./keys.js";
import { announce, showErrorIn } from "./site.js";

const STORED = "stagecraft.vote.keys";
const BUTTON_OF_KEY = {
  1: "choose-a",
  2: "choose-b",
  3: "choose-tie",
  4: "choose-both-bad",
  s: "choose-skip",
  u: "undo-vote",
};

const root = document.documentElement;

function keysAreOn() {
  try {
    return localStorage.getItem(STORED) !== "off";
  } catch {
    return true; // storage is forbidden: keys work, the choice is just not kept
  }
}

function setKeys(on) {
  try {
    localStorage.setItem(STORED, on ? "on" : "off");
  } catch {
    // Not kept, as above.
  }
  root.classList.toggle("has-keys", on);
  showToggle();
}

function showToggle() {
  const toggle = document.getElementById("toggle-keys");
  const on = root.classList.contains("has-keys");
  toggle.hidden = false;
  toggle.textContent = `Keys: ${on ? "on" : "off"}`;
  toggle.setAttribute("aria-pressed", String(on));
}

function showError(text) {
  showErrorIn("vote-error", text);
}

document.addEventListener("click", (event) => {
  if (event.target.closest("#toggle-keys")) {
    setKeys(!root.classList.contains("has-keys"));
    announce(root.classList.contains("has-keys") ? "Keys are on" : "Keys are off");
  }
});

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]");
  const modified = event.ctrlKey || event.metaKey || event.altKey;
  if (event.repeat || typing || modified || !root.classList.contains("has-keys")) return;
  const button = document.getElementById(BUTTON_OF_KEY[keyOf(event)] ?? "");
  if (!button) return;
  event.preventDefault();
  button.click();
});

// A refusal (too fast, not yours) comes with the page's inner part and a sentence: show it.
document.addEventListener("htmx:beforeSwap", (event) => {
  const { status } = event.detail.xhr;
  if ([400, 403, 429].includes(status) && event.detail.xhr.responseText.includes('id="arena"')) {
    event.detail.shouldSwap = true;
    event.detail.isError = false;
  } else if (status === 404) {
    location.assign("/vote/"); // the pair was withdrawn
  }
});

document.addEventListener("htmx:sendError", () => showError("Not saved: the site could not be reached. Please try again."));
document.addEventListener("htmx:responseError", (event) => {
  // Its form is from before a log-in or log-out in another tab: trying again would never help.
  const { status, responseText } = event.detail.xhr;
  const stale = status === 403;
  if (stale && responseText && !responseText.startsWith("<")) return showError(responseText); // not stale, but foreign
  const then = stale ? "this page is out of date. Reload it, then vote." : "something went wrong here. Please try again.";
  showError(`Not saved: ${then}`);
});

document.addEventListener("htmx:afterSwap", () => {
  showToggle();
  const arena = document.getElementById("arena");
  const error = document.getElementById("vote-error");
  const said = [arena.dataset.said, error.hidden ? "" : error.textContent].filter(Boolean).join(" ");
  if (!said) return;
  arena.dataset.said = "";
  announce(said);
  // The button that was pressed is gone; go on reading at the next question.
  document.getElementById("question")?.focus();
});

root.classList.toggle("has-keys", keysAreOn());
showToggle();
