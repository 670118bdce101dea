// The home page refreshes itself while a model trains. This keeps that from disturbing its reader.

import { announce } from "./site.js";

const heading = () => document.getElementById("next-step").textContent.trim();
let said = heading();

/** Whether a refresh would take away something the reader is holding: a selection, an open choice. */
function isBusy(live) {
  const selection = getSelection();
  const selecting = !selection.isCollapsed && live.contains(selection.anchorNode);
  return selecting || (live.contains(document.activeElement) && document.activeElement.matches("select"));
}

document.addEventListener("htmx:beforeSwap", (event) => {
  const live = event.detail.target;
  // Only the page's own refresh waits; what the reader asked for is shown at once.
  if (live.id === "live" && event.detail.requestConfig.verb === "get" && isBusy(live)) event.detail.shouldSwap = false;
});

document.addEventListener("htmx:afterSettle", () => {
  if (heading() !== said) {
    said = heading();
    announce(said);
  }
});
