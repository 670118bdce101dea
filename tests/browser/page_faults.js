// What is wrong with the page as it is laid out now: a list of sentences. The page walk (test_page_walk.py) runs this.
//
// Sight: nothing may stand beyond the window, be cut off by its box, or be written over. What scrolls sideways must say
// so by its shadow. Touch: whatever can be pressed is 24 px high and wide (WCAG 2.5.8), but for links in a sentence; on
// a phone the main buttons are 44.

({ phone, own }) => {
  const faults = new Set();
  const seen = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const told = (element) => element.outerHTML.replace(/\s+/g, " ").slice(0, 110);
  const isForEars = (element) => Boolean(element.closest(".visually-hidden, .skip-link, .skip-to-content-link"));
  const scrolls = (element) => ["auto", "scroll"].includes(getComputedStyle(element).overflowX);

  // -- beyond the window --------------------------------------------------------------------------

  if (document.documentElement.scrollWidth > innerWidth) {
    faults.add(`the page is ${document.documentElement.scrollWidth - innerWidth} px wider than the window`);
  }

  /** Where an element's content is seen: the window, or the nearest box that cuts it off; null where it can scroll. */
  function frameOf(element) {
    for (let box = element; box && box !== document.body; box = box.parentElement) {
      const { overflowX, clipPath } = getComputedStyle(box);
      if (clipPath !== "none") return null; // for screen readers alone
      if (["auto", "scroll"].includes(overflowX) && box.tagName !== "svg") return null;
      if (["hidden", "clip"].includes(overflowX) && box.tagName !== "svg") return box;
    }
    return document.documentElement;
  }

  for (const element of document.body.querySelectorAll("*")) {
    if (!seen(element) || isForEars(element)) continue;
    const text = [...element.childNodes].filter((node) => node.nodeType === 3 && node.data.trim());
    const isControl = element.matches("input, select, textarea, button, progress");
    if (!text.length && !isControl) continue;
    const frame = frameOf(element);
    if (!frame) continue;
    const box = frame === document.documentElement ? { left: 0, right: innerWidth } : frame.getBoundingClientRect();
    let area = element;
    if (text.length && !isControl) {
      area = document.createRange();
      area.setStart(text[0], 0);
      area.setEnd(text.at(-1), text.at(-1).length);
    }
    const { left, right, width } = area.getBoundingClientRect();
    if (!width || (right <= box.right + 1 && left >= box.left - 1)) continue;
    if (getComputedStyle(frame).textOverflow === "ellipsis") continue; // it says so itself
    faults.add(`cut off: ${told(element)}`);
  }

  // -- scrolls sideways, and does not say so ---------------------------------------------------------

  for (const element of document.body.querySelectorAll("*")) {
    if (!seen(element) || !scrolls(element) || element.matches("textarea, input, select")) continue;
    if (element.scrollWidth <= element.clientWidth + 1) continue;
    if (getComputedStyle(element).backgroundAttachment.includes("local")) continue; // the shadow at its edge
    faults.add(`scrolls sideways without a hint: ${told(element)}`);
  }

  // -- written over ----------------------------------------------------------------------------------

  for (const figure of document.querySelectorAll("svg[role=img]")) {
    const texts = [...figure.querySelectorAll("text")].filter(seen);
    const boxes = texts.map((text) => text.getBoundingClientRect());
    boxes.forEach((a, index) => {
      for (const [offset, b] of boxes.slice(index + 1).entries()) {
        const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (across <= 1 || down <= 4) continue;
        faults.add(`“${texts[index].textContent}” and “${texts[index + 1 + offset].textContent}” overprint each other`);
      }
    });
    const within = figure.parentElement.getBoundingClientRect();
    texts.forEach((text, index) => {
      if (boxes[index].right > within.right + 1 || boxes[index].left < within.left - 1) {
        faults.add(`“${text.textContent}” stands outside its figure`);
      }
    });
  }

  // -- targets ---------------------------------------------------------------------------------------

  /** A link with words of the sentence it is in before or behind it. */
  function isInSentence(link) {
    if (!link.matches("a") || getComputedStyle(link).display !== "inline") return false;
    const siblings = [...link.parentElement.childNodes].filter((node) => node.nodeType === 3);
    return siblings.some((node) => /[\p{L}\p{N}]/u.test(node.data));
  }

  const PRESSED = "a[href], button, summary, select, textarea, input:not([type=hidden]), [role=button]";
  const MAIN = ".btn-primary, .btn-large, .vote-buttons .btn, .offer-buttons .btn, #send, #stop, .site-nav a, .rail a";
  for (const target of own ? document.querySelectorAll(PRESSED) : []) {
    if (!seen(target) || isForEars(target) || isInSentence(target)) continue;
    const boxes = [target, ...(target.labels ?? [])].map((one) => one.getBoundingClientRect());
    const width = Math.max(...boxes.map((box) => box.width));
    const height = Math.max(...boxes.map((box) => box.height));
    if (!width || !height) continue;
    const least = phone && target.matches(MAIN) ? 44 : 24;
    if (height < least - 0.5 || width < 23.5) {
      faults.add(`a target of ${Math.round(width)} × ${Math.round(height)} px instead of ${least}: ${told(target)}`);
    }
  }
  return [...faults];
}
