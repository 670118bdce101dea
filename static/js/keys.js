// What a key press asks for, on any keyboard.

/**
 * The key in lower case, as our shortcuts name it: "1", "s", "/", "enter", "escape" …
 *
 * What the key types counts first. Where that is no Latin letter and no digit (Cyrillic, Greek, Arabic; the upper row of a
 * French or Czech keyboard), the place counts: 1 is where a Latin keyboard has its 1. While a word is being composed
 * (Japanese, Chinese, Korean, accents) a key is the composition's, the Enter that confirms it too: "".
 */
export function keyOf(event) {
  // 229 is how that Enter looks where the composition has ended just before it (Safari).
  if (event.isComposing || event.keyCode === 229) return "";
  const key = (event.key ?? "").toLowerCase(); // a browser that fills a form in sends keys without one
  if (/^[a-z0-9]+$/.test(key) || key === "/" || key === "?") return key;
  const [, letter] = /^Key([A-Z])$/.exec(event.code) ?? [];
  if (letter) return letter.toLowerCase();
  if (event.shiftKey) return key; // a digit with Shift is a digit where it needs one, and a sign elsewhere
  const [, digit] = /^Digit([0-9])$/.exec(event.code) ?? [];
  return digit ?? (event.code === "Slash" ? "/" : key);
}
