"""What a model is given to read of a conversation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer import foreign, small
from trainer.asked import Prompt
from trainer.config import PRETRAIN, SFT
from trainer.data.prompting import TooLong, fitting_corpus, prompt_ids
from trainer.model.speech import PLAIN_TEMPLATE
from trainer.model.tokenizer import Message, Tokenizer
from trainer.rl.rollout import fitting_prompts

TURNS: list[Message] = [
    {"role": "user", "content": "What does a fox eat?"},
    {"role": "assistant", "content": "A fox eats mice."},
    {"role": "user", "content": "Where does it live?"},
    {"role": "assistant", "content": "It lives in a den."},
    {"role": "user", "content": "Is it red?"},
]


def test_what_does_not_fit_goes_from_the_front_and_somebody_still_asks_first(tokenizer: Tokenizer) -> None:
    """One token too few for the last two turns leaves one of them, not an answer that nobody asked for."""
    two_turns, one_turn = (tokenizer.render_chat(TURNS[i:], add_generation_prompt=True)[0] for i in (2, 4))
    assert prompt_ids(tokenizer, TURNS, stage=SFT, room=len(two_turns)) == two_turns
    assert prompt_ids(tokenizer, TURNS, stage=SFT, room=len(two_turns) - 1) == one_turn


def test_a_model_before_chat_reads_the_bare_text(tokenizer: Tokenizer) -> None:
    text = tokenizer.encode("Where does it live?\nIt lives in a den.\nIs it red?")
    ids = prompt_ids(tokenizer, TURNS, stage=PRETRAIN, room=len(text) + 1)
    assert ids == [tokenizer.document_end_id, *text]


def test_a_last_message_that_does_not_fit_is_refused_with_both_lengths(tokenizer: Tokenizer) -> None:
    last = tokenizer.render_chat(TURNS[4:], add_generation_prompt=True)[0]
    with pytest.raises(ValueError, match=f"{len(last)} tokens, and there is room for {len(last) - 1}"):
        prompt_ids(tokenizer, TURNS, stage=SFT, room=len(last) - 1)


@pytest.mark.parametrize("family", ["smollm2", "mistral", "plain"])
def test_an_answer_that_has_begun_goes_on_as_if_the_model_had_written_it(tmp_path: Path, family: str) -> None:
    changes = {"chat_template": PLAIN_TEMPLATE} if family == "plain" else {}
    tokenizer = Tokenizer.load(foreign.write(tmp_path, "mistral" if family == "plain" else family, **changes))
    ids = prompt_ids(tokenizer, TURNS[:3], stage=SFT, room=500, begun="It lives in")
    whole, is_response = tokenizer.render_chat([*TURNS[:3], {"role": "assistant", "content": "It lives in a den."}])
    assert whole[: len(ids)] == ids
    prompt = prompt_ids(tokenizer, TURNS[:3], stage=SFT, room=500)
    assert len(ids) > len(prompt)
    assert all(is_response[len(prompt) : len(ids)])


def test_a_model_before_chat_reads_what_its_tokenizer_puts_before_a_text(tmp_path: Path) -> None:
    for family, before in (("mistral", ["<s>"]), ("smollm2", [])):
        tokenizer = Tokenizer.load(foreign.write(tmp_path / family, family))
        ids = prompt_ids(tokenizer, TURNS[:1], stage=PRETRAIN, room=90)
        text = tokenizer.encode(TURNS[0]["content"])
        assert ids == [*(tokenizer.roles.ids[token] for token in before), *text]


def test_what_a_template_refuses_is_not_taken_for_too_long(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(foreign.write(tmp_path, "mistral"))
    asked = Prompt("What is a fox?", "Be calm.")
    with pytest.raises(ValueError, match="Roles must alternate"):
        fitting_prompts(tokenizer, [asked], room=500)
    with pytest.raises(ValueError, match="Roles must alternate"):
        fitting_corpus(small.corpus(sample_prompts=[asked]), tokenizer, room=500)
    with pytest.raises(TooLong):
        prompt_ids(tokenizer, TURNS[:1], stage=SFT, room=5)
    assert list(fitting_prompts(tokenizer, ["Why?", "Why? " * 99], room=90)) == ["Why?"]
