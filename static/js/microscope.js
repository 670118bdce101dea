// The token microscope: opens under an answer, in place of its text, and goes through its tokens.
//
// What is shown is the server's partial. This script puts it in place, asks again while a worker is looking, keeps one
// tab stop among the tokens, and fills the card with what stands in the partial's JSON.

import { keyOf } from "./keys.js";
import { announce } from "./site.js";

const FIRST_WAIT_MS = 60;
const LONGEST_WAIT_MS = 1000;
const LOST = "The site could not be reached. Open the tokens again in a moment.";
const GONE = "This answer is no longer here for you. Reload the page.";

const holderOf = (link) => link.closest(".turn, .column");
const answerOf = (link) => holderOf(link).querySelector("[data-answer]");
const openOf = (link) => holderOf(link).querySelector("[data-microscope]");

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-look]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return; // a tab or window of its own
  event.preventDefault();
  if (openOf(link)) close(link);
  else open(link);
});

async function open(link) {
  const place = document.createElement("section");
  place.dataset.microscope = "";
  answerOf(link).after(place);
  link.setAttribute("aria-expanded", "true");
  announce("Looking into the answer");
  await show(link, link.href);
}

/** The partial at this address in place of what is open, and again until it says what was found. */
async function show(link, url, wait_ms = FIRST_WAIT_MS) {
  const found = await partialAt(url);
  const before = openOf(link);
  if (!before) return; // closed meanwhile
  before.replaceWith(found);
  if (found.dataset.waiting !== undefined) {
    setTimeout(() => show(link, `${link.href}?waiting=1`, Math.min(1.5 * wait_ms, LONGEST_WAIT_MS)), wait_ms);
    return;
  }
  const trouble = found.querySelector("[data-trouble]");
  if (trouble) announce(trouble.textContent);
  else begin(found, link);
}

async function partialAt(url) {
  try {
    const response = await fetch(url, { headers: { "HX-Request": "true" } });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    return page.querySelector("[data-microscope]") ?? saying(response.status === 404 ? GONE : LOST);
  } catch {
    return saying(LOST);
  }
}

function saying(text) {
  const place = document.createElement("section");
  place.dataset.microscope = "";
  const notice = document.createElement("p");
  notice.className = "notice small";
  notice.dataset.trouble = "";
  notice.textContent = text;
  place.append(notice);
  return place;
}

function close(link) {
  const hadFocus = openOf(link).contains(document.activeElement);
  openOf(link).remove();
  answerOf(link).hidden = false;
  link.setAttribute("aria-expanded", "false");
  if (hadFocus) link.focus();
}

// -- going through the tokens --------------------------------------------------------------------

function begin(place, link) {
  const cards = JSON.parse(place.querySelector("script[type='application/json']").textContent);
  const tokens = [...place.querySelectorAll(".token")];
  answerOf(link).hidden = true;
  let chosen = tokens[0];

  function choose(token) {
    chosen.tabIndex = -1;
    chosen.removeAttribute("aria-current");
    chosen = token;
    token.tabIndex = 0;
    token.setAttribute("aria-current", "true");
    fill(place, cards[tokens.indexOf(token)]);
  }
  const card = place.querySelector("[data-card]");

  const list = place.querySelector("[data-tokens]");
  for (const type of ["focusin", "click", "pointerover"]) {
    list.addEventListener(type, (event) => {
      const token = event.target.closest(".token");
      if (!token || (type === "pointerover" && event.pointerType !== "mouse")) return;
      if (type === "click") token.focus({ preventScroll: true });
      if (token !== chosen || card.hidden) choose(token);
      if (type !== "pointerover") card.scrollIntoView({ block: "nearest" });
    });
  }
  place.addEventListener("click", (event) => {
    const { go } = event.target.closest("a[data-go]")?.dataset ?? {};
    if (go === undefined) return;
    event.preventDefault();
    tokens[go].focus();
  });
  place.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (keyOf(event) === "escape") {
      event.preventDefault();
      event.stopPropagation(); // it closes this, and stops no answer
      close(link);
      return;
    }
    const token = event.target.closest(".token") && goal(tokens, chosen, keyOf(event));
    if (!token) return;
    event.preventDefault();
    token.focus();
  });
  // Whoever opened it by the button goes on in it; whoever has gone elsewhere meanwhile stays there.
  if ([link, document.body].includes(document.activeElement)) tokens[0].focus({ preventScroll: true });
  else choose(tokens[0]);
}

/** Where a key leads from one token. */
function goal(tokens, from, key) {
  const place = tokens.indexOf(from);
  const last = tokens.length - 1;
  const places = {
    arrowright: Math.min(place + 1, last),
    arrowleft: Math.max(place - 1, 0),
    home: 0,
    end: last,
  };
  if (key in places) return tokens[places[key]];
  if (key === "arrowdown") return nearest(tokens.slice(place + 1), from, 1);
  if (key === "arrowup") return nearest(tokens.slice(0, place).reverse(), from, -1);
  return key === "enter" || key === " " ? from : null;
}

/** The token on the next line that stands most nearly below (or above) this one; the last one where there is no line. */
function nearest(tokens, from, direction) {
  const here = from.getBoundingClientRect();
  const boxes = tokens.map((token) => ({ token, box: token.getClientRects()[0] ?? token.getBoundingClientRect() }));
  const beyond = boxes.filter(({ box }) => direction * (box.top - here.top) > here.height / 2);
  if (!beyond.length) return tokens.at(-1) ?? from;
  const line = beyond.filter(({ box }) => Math.abs(box.top - beyond[0].box.top) < here.height / 2);
  const away = ({ box }) => Math.abs(box.left - here.left);
  return line.reduce((best, one) => (away(one) < away(best) ? one : best)).token;
}

function fill(place, { sentence, change, bars }) {
  const card = place.querySelector("[data-card]");
  card.hidden = false;
  card.querySelector("[data-sentence]").textContent = sentence;
  card.querySelector("[data-change]").textContent = change;
  const template = place.querySelector("template[data-bar]");
  card.querySelector("[data-bars]").replaceChildren(...bars.map((bar) => barOf(template, bar)));
}

function barOf(template, bar) {
  const item = template.content.cloneNode(true).querySelector("li");
  item.classList.toggle("is-written", bar.is_written);
  item.querySelector("code").textContent = bar.text;
  item.querySelector("[data-now]").textContent = bar.percent;
  item.querySelector("[data-before]").textContent = bar.before_percent && `before: ${bar.before_percent}`;
  item.querySelector("rect.bar-now").setAttribute("width", `${100 * bar.probability}%`);
  if (bar.before === null) item.querySelector("rect.bar-before").remove();
  else item.querySelector("rect.bar-before").setAttribute("width", `${100 * bar.before}%`);
  return item;
}
