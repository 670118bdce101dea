// "Ask all five": fills the columns of one comparison while their answers are written.
// Without this script the page shows the same answers on reload.

import { announce } from "./site.js";
import { openStream } from "./stream.js";

const columns = document.getElementById("columns");
const open = new Map(
  [...columns.querySelectorAll("[data-answer][data-streaming]")].map((answer) => [answer.dataset.answer, answer]),
);

const NOTES = { length: "Cut off at the longest length.", stopped: "Stopped." };

function finish(message, frame) {
  const answer = open.get(message);
  if (!answer) return;
  answer.innerHTML = frame.html; // sanitised by the server
  answer.classList.remove("plain");
  delete answer.dataset.streaming;
  const note = answer.parentElement.querySelector("[data-note]");
  note.textContent = frame.error || NOTES[frame.finish_reason] || (frame.text.trim() ? "" : "It said nothing.");
  open.delete(message);
  if (open.size === 0) announce("All answers are complete.");
}

if (open.size > 0) {
  announce("The answers are being written.");
  openStream(columns.dataset.conversation, {
    onToken: (message, text) => open.get(message)?.append(text),
    onEnd: finish,
    onError: announce,
  });
}
