// The live text of a conversation's answers, over one WebSocket that may break at any time.
//
// A page names the answers it shows and the last event id it has of each. Whatever happens to the
// socket, every later event arrives exactly once and in order: after a reconnect the stream asks for
// what comes after the last id it has seen.

const FIRST_WAIT_MS = 300;
const LONGEST_WAIT_MS = 10_000;
const IDLE_MS = 15_000;
const REFUSED = 4404;
const TOO_MANY = 4429;
const TRIES_BEFORE_COMPLAINT = 3;

/**
 * Follow a conversation's answers.
 *
 * onToken({message, id, text}): more text of an answer. onEnd({message, state, finish_reason, text,
 * html, error}): it is finished; `html` is safe to insert. onError(sentence, {lost}): something the
 * person should know; `lost` when the stream has given up for good. onReconnect(): it works again.
 *
 * Returns {attach(message, after), stop(message), close()}.
 */
export function openStream(conversationId, { onToken, onEnd, onError = () => {}, onReconnect = () => {} }) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const url = `${scheme}://${location.host}/ws/chat/${conversationId}/`;
  const seen = new Map(); // answer id -> id of the last event of it
  const unsent = [];
  let socket = null;
  let tries = 0;
  let timer = 0;
  let closed = false;

  function send(frame) {
    if (socket?.readyState === WebSocket.OPEN) {
      socket.send(JSON.stringify(frame));
    } else {
      if (frame.type !== "attach") unsent.push(frame); // attaching is repeated on every connection
      connect();
    }
  }

  function connect() {
    if (closed || socket) return;
    clearTimeout(timer);
    const opened = new WebSocket(url);
    socket = opened;
    opened.addEventListener("open", () => {
      if (tries >= TRIES_BEFORE_COMPLAINT) onReconnect();
      tries = 0;
      for (const [message, after] of seen) send({ type: "attach", message, after });
      while (unsent.length) send(unsent.shift());
    });
    opened.addEventListener("message", (event) => receive(JSON.parse(event.data)));
    opened.addEventListener("close", (event) => {
      if (socket !== opened) return;
      socket = null;
      if (event.code === REFUSED) {
        closed = true;
        onError("This conversation is no longer open to you here. Log in again, then reload.", { lost: true });
      } else if (event.code === TOO_MANY) {
        closed = true;
        onError("You have too many chats open at once. Close some of them, then reload this one.", { lost: true });
      } else if (seen.size || unsent.length) {
        wait();
      }
    });
  }

  function wait() {
    tries += 1;
    if (tries === TRIES_BEFORE_COMPLAINT) onError("The connection is lost. Trying again …", { lost: false });
    const pause = Math.min(FIRST_WAIT_MS * 2 ** tries, LONGEST_WAIT_MS);
    timer = setTimeout(connect, pause * (0.75 + Math.random() / 2));
  }

  function receive(frame) {
    if (frame.type === "error") {
      onError(frame.text, { lost: false });
    } else if (!seen.has(frame.message)) {
      // Of an answer that is no longer shown.
    } else if (frame.type === "end") {
      seen.delete(frame.message);
      onEnd(frame);
      restWhenIdle();
    } else if (frame.after === seen.get(frame.message)) {
      seen.set(frame.message, frame.id);
      onToken(frame);
    } // Otherwise it answers an earlier request; what follows the last id seen is on its way.
  }

  function restWhenIdle() {
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (!seen.size) socket?.close();
    }, IDLE_MS);
  }

  // A laptop that wakes up, or a phone that gets its network back, should not wait out the pause.
  window.addEventListener("online", () => seen.size && connect());

  return {
    attach(message, after = "0") {
      seen.set(message, after);
      send({ type: "attach", message, after });
    },
    stop(message) {
      send({ type: "stop", message });
    },
    close() {
      closed = true;
      clearTimeout(timer);
      socket?.close();
    },
  };
}
