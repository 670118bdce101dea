"""Finished answers as HTML. Model output is hostile input, so this is where it is made harmless.

Markdown without raw HTML, links or images goes in (what the model writes as such stays visible
text), and what comes out passes an allowlist of tags with no attributes at all: nothing that runs,
loads or means something to htmx survives.
"""

from __future__ import annotations

import re
from functools import lru_cache

import nh3
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt

TAGS = {
    *("p", "br", "hr", "blockquote", "pre", "code", "em", "strong", "s"),
    *("ul", "ol", "li", "h1", "h2", "h3", "h4", "h5", "h6"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
MAX_CHARS = 100_000
"""Longer answers are shown as plain text: parsing them could keep the page waiting."""
THINKING = re.compile(r"\s*<think>(.*?)(?:</think>|\Z)", re.DOTALL)

_markdown = MarkdownIt("commonmark", {"html": False, "linkify": False, "breaks": True, "maxNesting": 20})
_markdown.enable(["table", "strikethrough"]).disable(
    ["link", "image", "autolink", "reference", "html_block", "html_inline"]
)


@lru_cache(maxsize=256)  # every message sent shows all the answers before it again
def render_answer(text: str) -> SafeString:
    """A finished answer as HTML: a leading <think> part folded away, the rest as Markdown."""
    thought = THINKING.match(text)
    if thought is None:
        return render_markdown(text)
    folded = render_markdown(thought[1])
    rest = render_markdown(text[thought.end() :])
    return mark_safe(f'<details class="drawer"><summary>Thinking</summary><div>{folded}</div></details>{rest}')


def render_markdown(text: str) -> SafeString:
    """Sanitised HTML of Markdown; every URL, tag and attribute in it stays text."""
    if len(text) > MAX_CHARS:
        return mark_safe(f"<pre>{nh3.clean_text(text)}</pre>")
    return mark_safe(nh3.clean(_markdown.render(text), tags=TAGS, attributes={}, link_rel=None))
