"""Conversations by a model's own template: the ids transformers gives, and who is responsible for each of them."""

from __future__ import annotations

import random
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers.utils import chat_template_utils

from tests.trainer import foreign
from trainer.model import template
from trainer.model.speech import PLAIN_TEMPLATE, read_speech
from trainer.model.template import ChatTemplate
from trainer.model.tokenizer import CHAT_TEMPLATE, Tokenizer

HI = {"role": "user", "content": "Hi fox"}
SYSTEM = {"role": "system", "content": "Be calm."}
TALK = [HI, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Why?"}]
TALK = [*TALK, {"role": "assistant", "content": "It is cold."}]
STOPPED = "does not come to an end: it was stopped"


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Tokenizer]]:
    root = tmp_path_factory.mktemp("families")
    directories = {family: foreign.write(root / family, family) for family in foreign.FAMILIES}
    return {family: (directory, Tokenizer.load(directory)) for family, directory in directories.items()}


def marked(tokenizer: Tokenizer, messages: list[dict[str, Any]], **options: Any) -> str:
    """The conversation as its tokens spell it, with everything the assistant is responsible for between brackets."""
    ids, is_response = tokenizer.render_chat(messages, **options)
    names = {id: text for text, id in tokenizer.roles.ids.items()}
    text, inside = "", False
    for id, response in zip(ids, is_response, strict=True):
        text += ("⟦" if response and not inside else "") + ("⟧" if inside and not response else "") + names[id]
        inside = response
    return (
        (text + ("⟧" if inside else "")).replace("Ġ", " ").replace("Ċ", "\n").replace("▁", " ").replace("<0x0A>", "\n")
    )


# -- the ids are transformers' -------------------------------------------------------------------------


WORDS = [
    "fox",
    " eats",
    "\n",
    "  mice",
    "42",
    "é",
    "🍓",
    "你好",
    "'s",
    ". ",
    "?",
    "<",
    "[",
    "\t",
    "<think>\nhm\n</think>\n\n",
]


def conversations(*, has_system: bool, count: int = 200) -> list[list[dict[str, str]]]:
    """Of one to six turns, with everything in them that templates trim, split or merge."""
    rng = random.Random(0)
    found = []
    for number in range(count):
        turns = [
            {
                "role": "assistant" if turn % 2 else "user",
                "content": "".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 6))),
            }
            for turn in range(1 + number % 6)
        ]
        found.append([SYSTEM, *turns] if has_system and rng.random() < 0.3 else turns)
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("family", foreign.FAMILIES)
def test_transformers_gives_the_same_ids(
    known: dict[str, tuple[Path, Tokenizer]], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PinnedDay(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return template.TODAY

    monkeypatch.setattr(chat_template_utils, "datetime", PinnedDay)
    directory, tokenizer = known[family]
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    for number, talk in enumerate(conversations(has_system=family != "mistral")):
        prompts = bool(number % 2)
        ids, is_response = tokenizer.render_chat(talk, add_generation_prompt=prompts)
        assert ids == theirs.apply_chat_template(talk, add_generation_prompt=prompts, return_dict=False)
        assert len(is_response) == len(ids)
        assert any(is_response) == any(message["role"] == "assistant" for message in talk)


# -- who says what -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (
            "smollm2",
            "<|im_start|>system\nYou are a helpful fox.<|im_end|>\n"
            "<|im_start|>user\nHi fox<|im_end|>\n<|im_start|>assistant\n⟦Hello.<|im_end|>⟧\n"
            "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n⟦It is cold.<|im_end|>⟧\n",
        ),
        (
            "llama3",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday: 26 Jul 2024\n\n<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHi fox<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Hello.<|eot_id|>⟧"
            "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n⟦It is cold.<|eot_id|>⟧",
        ),
        # A space of the library's own follows the first control token: it puts one before every piece of text.
        ("mistral", "<s> [INST] Hi fox [/INST]⟦ Hello.</s>⟧ [INST] Why? [/INST]⟦ It is cold.</s>⟧"),
        ("llama2", "<s>[INST] Hi fox [/INST]⟦ Hello. </s>⟧<s>[INST] Why? [/INST]⟦ It is cold. </s>⟧"),
        (
            "qwen3",
            "<|im_start|>user\nHi fox<|im_end|>\n<|im_start|>assistant\n⟦Hello.<|im_end|>⟧\n"
            "<|im_start|>user\nWhy?<|im_end|>\n"
            "<|im_start|>assistant\n⟦<think>\n\n</think>\n\nIt is cold.<|im_end|>⟧\n",
        ),
        (
            "generation",
            "<|im_start|>user\nHi fox<|im_end|>\n<|im_start|>assistant\n⟦Hello.<|im_end|>⟧\n"
            "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n⟦It is cold.<|im_end|>⟧\n",
        ),
    ],
)
def test_the_assistant_is_responsible_for_what_it_writes_once_it_is_its_turn(
    known: dict[str, tuple[Path, Tokenizer]], family: str, expected: str
) -> None:
    tokenizer = known[family][1]
    assert marked(tokenizer, TALK) == expected
    prompt = marked(tokenizer, TALK[:3], add_generation_prompt=True)
    first, last = expected.split("⟦")[:2], expected.split("⟦")[2]
    assert prompt == "⟦".join(first)  # what is learnt begins where a prompt ends
    assert last.count("⟧") == 1


@pytest.mark.parametrize("family", foreign.FAMILIES)
def test_a_prompt_and_an_answer_are_the_ids_of_both(known: dict[str, tuple[Path, Tokenizer]], family: str) -> None:
    """What is sampled after a prompt is what would be learnt; Qwen3's empty thought is part of its answer."""
    tokenizer = known[family][1]
    prompt, _ = tokenizer.render_chat(TALK[:3], add_generation_prompt=True)
    said = "<think>\n\n</think>\n\nIt is cold." if family == "qwen3" else "It is cold."
    whole, is_response = tokenizer.render_chat(TALK)
    answer = [*tokenizer.encode(said), tokenizer.end_id]
    if family == "llama2":  # its template writes a space before the end
        answer.insert(-1, tokenizer.roles.ids["▁"])
    assert whole[: len(prompt)] == prompt
    assert whole[len(prompt) :][: len(answer)] == answer
    assert is_response[len(prompt) :] == [n < len(answer) for n in range(len(whole) - len(prompt))]
    assert tokenizer.decode(answer).rstrip() == said


@pytest.mark.parametrize("answer", ["It is cold.", "", " It", "\n\nIt.", "<|im_end|></s>", "🍓"])
@pytest.mark.parametrize("family", [*foreign.FAMILIES, "plain"])
def test_an_answer_judged_after_a_prompt_is_what_would_have_been_written_there(
    known: dict[str, tuple[Path, Tokenizer]], tmp_path: Path, family: str, answer: str
) -> None:
    if family == "plain":  # SentencePiece puts a space before every text, and this template puts none before an answer
        tokenizer = Tokenizer.load(foreign.write(tmp_path, "llama2", chat_template=PLAIN_TEMPLATE))
    else:
        tokenizer = known[family][1]
    prompt, [ids, same] = tokenizer.render_answers(TALK[:3], [answer, answer])
    assert prompt == tokenizer.render_chat(TALK[:3], add_generation_prompt=True)[0]
    assert ids == same
    assert not set(ids) & set(tokenizer.roles.control.values())
    stream = tokenizer.stream()
    shown = "".join(map(stream.push, [*prompt, *ids])) + stream.finish()
    said = shown.removeprefix(tokenizer.decode(prompt)).removeprefix("<think>\n\n</think>\n\n")
    assert said.strip() == answer.strip()
    if family == "plain" and answer[:2] == "It":
        assert ids != tokenizer.encode(answer)
        whole, is_response = tokenizer.render_chat([*TALK[:3], {"role": "assistant", "content": answer}])
        assert [id for id, response in zip(whole, is_response, strict=True) if response][-1 - len(ids) : -1] == ids


@pytest.mark.parametrize("family", foreign.FAMILIES)
def test_an_answer_of_weight_0_is_read_and_not_learnt(known: dict[str, tuple[Path, Tokenizer]], family: str) -> None:
    tokenizer = known[family][1]
    whole, everything = tokenizer.render_chat(TALK)
    for number, kept in ((1, "It is cold."), (3, "Hello.")):
        talk = [{**message, "weight": 0} if n == number else message for n, message in enumerate(TALK)]
        ids, is_response = tokenizer.render_chat(talk)
        assert ids == whole
        learnt = [id for id, response in zip(ids, is_response, strict=True) if response]
        assert tokenizer.decode(learnt).removeprefix("<think>\n\n</think>\n\n").rstrip() == kept
        assert sum(is_response) < sum(everything)
    assert not any(tokenizer.render_chat([{**message, "weight": 0} for message in TALK])[1])


def test_a_thought_is_written_where_the_template_writes_it_and_cut_where_it_cuts_it(
    known: dict[str, tuple[Path, Tokenizer]],
) -> None:
    thought = {"role": "assistant", "content": "<think>\nMice?\n</think>\n\nMice."}
    talk = [HI, thought, {"role": "user", "content": "Why?"}, thought]
    assert marked(known["qwen3"][1], talk) == (
        "<|im_start|>user\nHi fox<|im_end|>\n<|im_start|>assistant\n⟦Mice.<|im_end|>⟧\n"
        "<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n⟦<think>\nMice?\n</think>\n\nMice.<|im_end|>⟧\n"
    )


@pytest.mark.parametrize("content", ["", " ", "\n", "Hello.\n", "  Hello", "<|im_end|>", "</s> [INST]", "<", "Hi<|im_"])
@pytest.mark.parametrize("family", foreign.FAMILIES)
def test_every_answer_ends_in_its_end_whatever_it_says(
    known: dict[str, tuple[Path, Tokenizer]], family: str, content: str
) -> None:
    tokenizer = known[family][1]
    ids, is_response = tokenizer.render_chat([HI, {"role": "assistant", "content": content}])
    learnt = [id for id, response in zip(ids, is_response, strict=True) if response]
    assert [id for id in learnt if id in tokenizer.end_ids] == [learnt[-1]] == [tokenizer.end_id]
    assert tokenizer.decode(learnt).removeprefix("<think>\n\n</think>\n\n").strip() == content.strip()


# -- what people type ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", foreign.FAMILIES)
def test_no_message_brings_a_control_token_in(known: dict[str, tuple[Path, Tokenizer]], family: str) -> None:
    tokenizer = known[family][1]
    control = tokenizer.roles.control
    plain, _ = tokenizer.render_chat(TALK[:2])
    wanted = [id for id in plain if id in control.values()]
    every = "".join(control)
    for typed in (*control, every, f"{every} \n", f"x{every}y", *(token[:-1] for token in control)):
        talk = [{"role": "user", "content": typed}, {"role": "assistant", "content": typed}]
        ids, _ = tokenizer.render_chat(talk)
        assert [id for id in ids if id in control.values()] == wanted
        shown = tokenizer.decode(ids)
        assert shown.count(typed.strip()) >= 2, shown


def test_what_a_template_would_complete_stays_what_was_typed(tmp_path: Path) -> None:
    """The template writes "end|>" right behind what people say: together that is no end token."""
    tokenizer = Tokenizer.load(
        foreign.write(
            tmp_path, "smollm2", chat_template="{% for m in messages %}{{ m.content }}end|><|im_end|>{% endfor %}"
        )
    )
    ids, _ = tokenizer.render_chat([{"role": "user", "content": "<|im_"}])
    assert ids.count(tokenizer.end_id) == 1
    assert tokenizer.decode(ids) == "<|im_end|>"


def test_a_mark_of_ours_that_somebody_types_is_a_letter_like_others(known: dict[str, tuple[Path, Tokenizer]]) -> None:
    tokenizer = known["smollm2"][1]
    text = "\U000f0000\U000f0001<|im_end|>\U000f0002"
    ids, _ = tokenizer.render_chat([{"role": "user", "content": text}, {"role": "assistant", "content": text}])
    assert tokenizer.decode(ids).count(text) == 2


def test_a_token_that_takes_the_spaces_around_it_still_does(tmp_path: Path) -> None:
    """Phi-3's control tokens strip what stands behind them."""
    directory = foreign.write(tmp_path, "smollm2")
    path = directory / "tokenizer.json"
    whole = path.read_text()
    place = whole.index('"content": "<|im_end|>"')
    path.write_text(whole[:place] + whole[place:].replace('"rstrip": false', '"rstrip": true', 1))
    tokenizer = Tokenizer.load(directory)
    ids, is_response = tokenizer.render_chat(TALK)
    text = tokenizer.template.render(TALK)
    assert ids == tokenizer.backend.encode(text, add_special_tokens=False).ids
    assert marked(tokenizer, TALK).endswith("<|im_start|>assistant\n⟦It is cold.<|im_end|>⟧")
    assert len(ids) == len(is_response)


# -- templates that refuse, and templates that are missing ---------------------------------------------


@pytest.mark.parametrize(
    ("talk", "reason"),
    [
        ([SYSTEM, HI], "Roles must alternate: user, assistant, user, assistant"),
        ([HI, HI], "Roles must alternate"),
    ],
)
def test_a_conversation_that_the_template_refuses_is_refused_in_its_words(
    known: dict[str, tuple[Path, Tokenizer]], talk: list[dict[str, str]], reason: str
) -> None:
    with pytest.raises(ValueError, match=f"template does not take this conversation: {reason}") as refusal:
        known["mistral"][1].render_chat(talk)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("family", "expected"), [("smollm2", CHAT_TEMPLATE), ("mistral", PLAIN_TEMPLATE)])
def test_a_model_without_a_template_is_given_one_and_keeps_it(tmp_path: Path, family: str, expected: str) -> None:
    tokenizer = Tokenizer.load(foreign.write(tmp_path / "a", family, chat_template=None))
    assert tokenizer.template.source == expected
    ids, is_response = tokenizer.render_chat(TALK)
    learnt = [id for id, response in zip(ids, is_response, strict=True) if response]
    answers = [tokenizer.render_answers(TALK[:place], [TALK[place]["content"]])[1][0] for place in (1, 3)]
    assert learnt == [*answers[0], tokenizer.end_id, *answers[1], tokenizer.end_id]
    (tmp_path / "b").mkdir()
    tokenizer.save(tmp_path / "b")
    assert Tokenizer.load(tmp_path / "b").render_chat(TALK) == (ids, is_response)


def test_of_several_templates_the_default_one_is_taken_and_a_file_of_its_own_goes_first(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": foreign.CHATML}]
    directory = foreign.write(tmp_path, "smollm2", chat_template=named)
    assert Tokenizer.load(directory).template.source == foreign.CHATML
    (directory / "chat_template.jinja").write_text(foreign.GENERATION)
    assert Tokenizer.load(directory).template.source == foreign.GENERATION


# -- templates that go wrong ---------------------------------------------------------------------------


def render(source: str, **names: str) -> str:
    return ChatTemplate(source, names=names).render(TALK)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}" + "x" * 999 + "{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{{ 'x' * 10**9 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{% set n = namespace(x=9) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{% set n = namespace(x='xx') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x='xx') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}",
        "{% set n = namespace(x=['x']) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x=['x']) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x='xx') %}{% for i in range(99) %}{% set n.x = n.x.replace('x', n.x) %}{% endfor %}",
        "{% set n = namespace(x='xx') %}{% for i in range(99) %}{% set n.x = n.x | replace('x', n.x) %}{% endfor %}",
        "{% set n = namespace(x='xx') %}{% for i in range(99) %}{% set n.x = n.x | join(n.x) %}{% endfor %}",
        "{% set n = namespace(x='xx') %}{% for i in range(99) %}{% set n.x = n.x.join([n.x, n.x]) %}{% endfor %}",
        "{{ 'x' | indent(10 ** 9, true) }}",
        "{{ messages | tojson(indent=10 ** 9) }}",
        "{% for a in range(9999) %}" + "long literal " * 999 + "{% endfor %}",
        "{{ ('{a}' * 9999).format(a='x' * 99999) }}",
        "{{ ('%s' * 9999) % [[''] * 99999] }}",
        "{{ (['x'] * 99999) | replace('', 'x' * 9999) }}",
        "{{ (['x'] * 9999) | join(['x'] * 99999) }}",
        "{{ ('a' * 200000).rfind('ab' + 'a' * 40000) }}",
        "{{ ('a' * 200000).rsplit(sep='ab' + 'a' * 40000) }}",
        "{{ ('é' * 200000).strip('ê' * 100000 + 'é') }}",
        "{{ (['é'] * 99999) | trim('ê' * 100000 + 'é') }}",
        "{{ (('f' * 200000) | int(base=16)) ** 64 > 1 }}",
        "{% set d = dict(x='x' * 99999) %}{% for a in range(99999) %}{{ d.values() }}{% endfor %}",
    ],
)
def test_a_template_that_would_go_on_or_grow_for_ever_is_stopped_in_one_sentence(source: str) -> None:
    before = time.thread_time()
    with pytest.raises(ValueError, match=STOPPED) as refusal:
        render(source)
    assert time.thread_time() - before < 2 * template.RENDER_S
    assert "\n" not in str(refusal.value)


def test_computing_without_growing_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "RENDER_S", 0.05)
    monkeypatch.setattr(template, "ALLOWANCE", 10**12)
    with pytest.raises(ValueError, match=STOPPED):
        render("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ 'x' | center(9999999999) }}", "No filter named 'center'"),
        ("{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}", "recursion"),
        ("{% for a in messages %}" * 200 + "{% endfor %}" * 200, "more than 20 loops"),
        ("{% for %}", "chat template has an error"),
        ("{% generation %}", "chat template has an error"),
    ],
)
def test_a_template_that_is_none_is_refused_when_it_is_read(source: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as refusal:
        ChatTemplate(source, names={})
    assert str(refusal.value).startswith("The chat template has an error (")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ 'x'.ljust(9999999999) }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '{:9999999999}'.format(1) }}",
        "{{ lipsum() }}",
        "{% include 'tokenizer.json' %}",
        "{% set n = namespace() %}{% set n._x = 1 %}",
        "{{ raise_exception.__globals__.os }}",
        "{{ 1 / 0 }}",
        "{{ range(999999) }}",
    ],
)
def test_a_template_reaches_nothing_and_changes_nothing(source: str) -> None:
    talk = [dict(message) for message in TALK]
    with pytest.raises(ValueError, match="does not take this conversation"):
        ChatTemplate(source, names={}).render(talk)
    assert talk == TALK


def test_a_template_has_the_helpers_that_transformers_gives() -> None:
    source = (
        "{% set n = namespace(k=0) %}{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}"
        "{% set n.k = n.k + 1 %}{% endfor %}{{ n.k }} "
        "{{ {'b': 'é<>', 'a': [1, none]} | tojson }} {{ dict(a=1) | tojson(indent=1) }} "
        "{{ strftime_now('%Y-%m-%d') }} {{ bos_token }} {{ missing }}|"
        "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(', ') }}"
    )
    assert (
        render(source, bos_token="<s>") == '2 {"b": "é<>", "a": [1, null]} {\n "a": 1\n} 2024-07-26 <s> |Hi fox, Why?'
    )


def test_a_long_conversation_is_no_endless_one() -> None:
    talk = [{"role": "user", "content": "What? " * 400}, {"role": "assistant", "content": "That. " * 400}] * 200
    for source in (foreign.CHATML, foreign.LLAMA3, foreign.QWEN3, foreign.MISTRAL):
        names = {"bos_token": "<s>", "eos_token": "</s>"}
        assert len(ChatTemplate(source, names=names).render(talk)) > 900_000


def test_the_site_knows_at_the_door_what_the_trainer_could_not_load(tmp_path: Path) -> None:
    directory = foreign.write(tmp_path, "smollm2")
    roles, speech = read_speech(directory)
    assert speech.end_ids == Tokenizer.load(directory).end_ids
    assert roles.vocab_size == Tokenizer.load(directory).vocab_size
    (directory / "chat_template.jinja").write_text("{% if %}")
    for read in (read_speech, Tokenizer.load):
        with pytest.raises(ValueError, match="The chat template has an error") as refusal:
            read(directory)
        assert str(refusal.value).startswith(f"{directory}: ")
