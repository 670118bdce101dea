"""Token ids to text, a piece at a time.

The idea: a token is bytes, and a text is the bytes of its tokens one after the other; so whoever turns tokens to bytes
and bytes to letters as they come has the text at every moment, and never half a letter. Tokenizers write the bytes of a
token in one of two ways, and say which in the `decoder` of their file:

- byte-level: every letter of the token stands for a byte (GPT-2's table);
- SentencePiece-like: "▁" stands for a space, `<0x0A>` for a byte, everything else for itself; at the very start of a
  text the space that was put in front of it is taken off again.

A tokenizer with any other decoder is asked for the whole text again at every token. What is not UTF-8 becomes U+FFFD,
as Unicode recommends: one for every longest beginning of a letter (https://www.unicode.org/versions/latest/, 3.9).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
BROKEN: Final = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """How the tokens of a tokenizer spell bytes."""

    byte_level: bool = False
    replaced: tuple[tuple[str, str], ...] = ()
    """What stands for what in a token, in order."""
    has_byte_tokens: bool = False
    dropped: str = ""
    """What the very first token loses everywhere (a Metaspace's "▁")."""
    stripped: str = ""
    """A letter that is taken off the start of the text…"""
    strips: int = 0
    """…this many times at most."""

    def bytes_of(self, token: str, *, is_first: bool) -> bytes:
        """The bytes of one token."""
        if self.byte_level:
            table = _byte_letters()
            known = [table.get(letter) for letter in token]
            return token.encode() if None in known else bytes(byte for byte in known if byte is not None)
        if self.has_byte_tokens and (byte := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        if is_first and self.dropped:
            token = token.replace(self.dropped, "")
        for what, by in self.replaced:
            token = token.replace(what, by)
        return token.encode()


def spelling_of(decoder: Any) -> Spelling | None:
    """The spelling that the `decoder` of a tokenizer.json describes; None for one that we do not know."""
    parts = _parts(decoder)
    kinds = [part.get("type") for part in parts]
    if kinds == ["ByteLevel"]:
        return Spelling(byte_level=True)
    if kinds in (["Metaspace"], ["ByteFallback", "Metaspace"]):
        space = parts[-1].get("replacement", "▁")
        prefixed = parts[-1].get("prepend_scheme", "always") != "never" and parts[-1].get("add_prefix_space", True)
        return Spelling(replaced=((space, " "),), dropped=space if prefixed else "", has_byte_tokens=len(parts) == 2)
    replaced: list[tuple[str, str]] = []
    while kinds[:1] == ["Replace"]:
        pattern = parts[0].get("pattern") or {}
        if set(pattern) != {"String"}:
            return None
        replaced.append((pattern["String"], parts[0].get("content", "")))
        parts, kinds = parts[1:], kinds[1:]
    if kinds in (["ByteFallback"], ["ByteFallback", "Fuse"]):
        return Spelling(replaced=tuple(replaced), has_byte_tokens=True)
    if kinds in (["ByteFallback", "Fuse", "Strip"], ["Fuse", "Strip"]) and not parts[-1].get("stop"):
        return Spelling(
            replaced=tuple(replaced),
            has_byte_tokens=kinds[0] == "ByteFallback",
            stripped=parts[-1].get("content", " "),
            strips=parts[-1].get("start", 0),
        )
    return Spelling(replaced=tuple(replaced)) if kinds in ([], ["Fuse"]) and replaced else None


def _parts(decoder: Any) -> list[Mapping[str, Any]]:
    if not isinstance(decoder, Mapping):
        return []
    if decoder.get("type") == "Sequence":
        return [part for inner in decoder.get("decoders") or [] for part in _parts(inner)]
    return [decoder]


@cache
def _byte_letters() -> dict[str, int]:
    """GPT-2's table: the letter that stands for each byte. Printable bytes stand for themselves, others follow 255."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


class TextStream:
    """One text being written. Its pieces, `finish()` included, are together exactly what `decode` gives of all ids."""

    def __init__(self, token_of: Callable[[int], str | None], spelling: Spelling) -> None:
        """`token_of` gives None for ids that have no text: control tokens, and those no token has."""
        self._token_of, self._spelling = token_of, spelling
        self._letters = codecs.getincrementaldecoder("utf-8")("replace")
        self._strips = spelling.strips
        self._is_first = True

    def push(self, id: int) -> str:
        """The text that is certain now; empty while a letter is not whole."""
        token = self._token_of(id)
        if token is None:
            return ""
        data = self._spelling.bytes_of(token, is_first=self._is_first)
        self._is_first = False
        return self._strip(self._letters.decode(data))

    def finish(self) -> str:
        """What is left: U+FFFD for a letter that never became whole."""
        return self._strip(self._letters.decode(b"", final=True))

    def _strip(self, text: str) -> str:
        while self._strips and text:
            if text[0] != self._spelling.stripped:
                self._strips = 0
                break
            text, self._strips = text[1:], self._strips - 1
        return text


class RereadStream:
    """The same for a tokenizer whose decoder we do not know: it decodes everything anew, and shows what is settled.

    Quadratic in the length of an answer, and settled is what stayed the same when one more token came.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._text = self._shown = ""

    def push(self, id: int) -> str:
        self._ids.append(id)
        before, self._text = self._text, self._decode(self._ids)
        settled = before if self._text.startswith(before) and not before.endswith(BROKEN) else self._shown
        piece, self._shown = settled[len(self._shown) :], settled
        return piece

    def finish(self) -> str:
        piece, self._shown = self._text[len(self._shown) :], self._text
        return piece
