// What every page needs: the theme button without a reload, and a few helpers other scripts import.

/** The CSRF token Django put into the page's forms. */
export function csrfToken() {
  return document.querySelector("input[name=csrfmiddlewaretoken]")?.value ?? "";
}

/** Say one sentence to screen readers, through the page's single polite status region. */
export function announce(text) {
  document.getElementById("status").textContent = text;
}

/** Show an error where this page keeps it, and say it; no text takes it away. */
export function showErrorIn(id, text) {
  const error = document.getElementById(id);
  error.textContent = text;
  error.hidden = !text;
  if (text) announce(text);
}

/** More of an answer. The space a continuation begins with is not shown, as it is not once the answer is complete. */
export function appendText(element, text) {
  element.append(element.textContent ? text : text.trimStart());
}

/** Hide an element; had it the focus, which would be lost with it, `next` gets it. */
export function hideAndFocus(element, next) {
  const hadFocus = element.contains(document.activeElement);
  element.hidden = true;
  if (hadFocus) next.focus({ preventScroll: true });
}

// The server writes moments in UTC; what the reader's clock said then, the browser knows.
customElements.define(
  "local-time",
  class extends HTMLElement {
    connectedCallback() {
      const time = this.querySelector("time");
      this.title ||= time.textContent;
      const timeStyle = this.getAttribute("precision") === "seconds" ? "medium" : "short";
      time.textContent = new Date(time.dateTime).toLocaleString([], { dateStyle: "medium", timeStyle });
    }
  },
);

/** What the theme button does next: away from the system's theme, to its own, and back to following it. */
function themeAfter(theme) {
  const order = matchMedia("(prefers-color-scheme: dark)").matches
    ? ["system", "light", "dark"]
    : ["system", "dark", "light"];
  return order[(order.indexOf(theme) + 1) % order.length];
}

for (const form of document.querySelectorAll("[data-theme-form]")) {
  const button = form.querySelector("button");
  button.value = themeAfter(document.documentElement.dataset.theme || "system");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const theme = button.value;
    document.documentElement.dataset.theme = theme === "system" ? "" : theme;
    button.value = themeAfter(theme);
    button.title = `Theme: ${theme}`;
    form.querySelector("[data-theme-name]").textContent = theme;
    announce(`Theme: ${theme}`);
    document.dispatchEvent(new CustomEvent("themechange"));
    const body = new FormData(form);
    body.set("theme", theme);
    await fetch(form.action, { method: "POST", body, redirect: "manual" });
  });
}

// Tabs that do not fit scroll sideways: begin where the reader is.
for (const here of document.querySelectorAll(".tabs [aria-current]")) {
  const strip = here.closest(".tabs");
  strip.scrollLeft = here.offsetLeft - (strip.clientWidth - here.offsetWidth) / 2;
}
