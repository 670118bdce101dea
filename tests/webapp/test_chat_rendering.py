"""Model output is hostile: nothing that runs, loads or means something to htmx survives rendering."""

from __future__ import annotations

import itertools
from html.parser import HTMLParser

import pytest

from webapp.answers.rendering import MAX_CHARS, TAGS, render_answer

SAFE = TAGS | {"details", "summary", "div"}


class Found(HTMLParser):
    """Every tag and attribute a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str | None]] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(attrs)


WRAPPERS = [
    "{}",
    "# {}",
    "> {}",
    "- {}",
    "`{}`",
    "```\n{}\n```",
    "a | b\n---|---\n{} | x",
    "<think>{}",
    "*{}*",
    "[x]: {}",
]
PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe src=javascript:alert(1)></iframe>",
    '<a href="javascript:alert(1)">x</a>',
    "[x](javascript:alert(1))",
    "[x](https://evil.example)",
    "![x](https://evil.example/pixel.png)",
    "<https://evil.example>",
    "[x][y]\n\n[y]: https://evil.example",
    '<div hx-get="/admin/" hx-trigger="load">x</div>',
    '<p data-hx-post="/vote/" hx-on::load="alert(1)">x</p>',
    "<style>*{background:url(https://evil.example)}</style>",
    "<link rel=stylesheet href=//evil.example>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<base href=//evil.example>",
    "<form action=//evil.example><button>x</button></form>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "</div></article><script>alert(1)</script>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<scr<script>ipt>alert(1)</script>",
    "<details open ontoggle=alert(1)>",
    "<!--><script>alert(1)</script>-->",
    "\x00<script\x00>alert(1)</script>",
]


@pytest.mark.parametrize(("wrapper", "payload"), list(itertools.product(WRAPPERS, PAYLOADS)))
def test_nothing_dangerous_survives(wrapper: str, payload: str) -> None:
    found = Found(render_answer(wrapper.format(payload)))
    assert found.tags <= SAFE
    assert found.attributes <= {("class", "drawer")}


def test_what_looks_like_html_stays_readable() -> None:
    assert "&lt;b&gt;bold&lt;/b&gt;" in render_answer("<b>bold</b>")


def test_a_link_stays_text() -> None:
    assert render_answer("[here](https://example.org)") == "<p>[here](https://example.org)</p>\n"


def test_markdown_is_rendered() -> None:
    html = render_answer("**7** plus `5`:\n\n1. one\n2. two\n\n| a | b |\n|---|---|\n| 1 | 2 |")
    for piece in ("<strong>7</strong>", "<code>5</code>", "<li>one</li>", "<td>1</td>"):
        assert piece in html


def test_thinking_is_folded_even_when_it_never_ends() -> None:
    assert render_answer("<think>7 + 5</think>12").endswith("</details><p>12</p>\n")
    open_ended = render_answer("<think>7 + 5 is")
    assert open_ended.startswith('<details class="drawer"><summary>Thinking</summary>')
    assert open_ended.endswith("</details>")


def test_an_endless_answer_is_shown_as_text() -> None:
    html = render_answer("<x>" * MAX_CHARS)
    assert Found(html).tags == {"pre"}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text", ["[" * 20_000, "> " * 20_000, "*a " * 20_000, "- " * 20_000, "`" * 20_000, "|" * 20_000]
)
def test_pathological_markdown_does_not_hang(text: str) -> None:
    assert Found(render_answer(text)).tags <= SAFE
