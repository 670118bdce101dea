"""What a model is given to read of a conversation."""

from __future__ import annotations

import pytest

from trainer.config import PRETRAIN, SFT
from trainer.data.prompting import prompt_ids
from trainer.model.tokenizer import Message, Tokenizer

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
