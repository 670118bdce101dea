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

/** Whether a request is the page's own refresh, which nobody asked for. */
function isRefresh(event) {
  return event.detail.target?.id === "live" && event.detail.requestConfig?.verb === "get";
}

// A tab nobody looks at asks nothing; when it is looked at again, at once.
document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden && isRefresh(event)) event.preventDefault();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) htmx.trigger("#live", "look-again");
});

document.addEventListener("htmx:beforeSwap", (event) => {
  // Only the page's own refresh waits; what the reader asked for is shown at once.
  if (isRefresh(event) && isBusy(event.detail.target)) event.detail.shouldSwap = false;
});

document.addEventListener("htmx:afterSettle", () => {
  if (heading() !== said) {
    said = heading();
    announce(said);
  }
});
