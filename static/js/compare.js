// "Ask all five": fills the columns of one comparison while their answers are written.
// Without this script the page shows the same answers on reload.

import { announce, appendText, hideAndFocus, showErrorIn } from "./site.js";
import { openStream } from "./stream.js";

const NOTES = { length: "Cut off at the longest length.", stopped: "Stopped." };

const columns = document.getElementById("columns");
const stopping = document.getElementById("stopping");
const unfinished = new Map(
  [...columns.querySelectorAll(".answer.is-streaming")].map((answer) => [answer.dataset.answer, answer]),
);

function finish(frame) {
  const answer = unfinished.get(frame.message);
  answer.innerHTML = frame.html; // sanitised by the server
  answer.classList.remove("is-streaming");
  const note = answer.parentElement.querySelector("[data-note]");
  note.textContent = frame.error || NOTES[frame.finish_reason] || (frame.text.trim() ? "" : "It said nothing.");
  unfinished.delete(frame.message);
  if (unfinished.size > 0) return;
  announce("All answers are complete.");
  hideAndFocus(stopping, document.querySelector("#ask textarea"));
}

function showError(text) {
  showErrorIn("compare-error", text);
}

if (unfinished.size > 0) {
  announce("The answers are being written.");
  const stream = openStream(columns.dataset.conversation, {
    onToken: (frame) => appendText(unfinished.get(frame.message), frame.text),
    onEnd: finish,
    onError: showError,
    onReconnect() {
      showError("");
      announce("Connected again");
    },
  });
  for (const [message, answer] of unfinished) stream.attach(message, answer.dataset.after);
  stopping.hidden = false;
  stopping.querySelector("button").addEventListener("click", () => {
    for (const message of unfinished.keys()) stream.stop(message);
    announce("Stopping");
  });
}
