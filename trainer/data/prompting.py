"""What a checkpoint of each stage is given to read before it writes.

Before instruction fine-tuning a model knows documents, not conversations: its prompt is the bare
text, after what stands before a document (`Tokenizer.document_start_ids`). From `sft` on it is the chat template.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from trainer.asked import Asked, Message, asked_messages, asked_shown
from trainer.config import INIT, PRETRAIN, SFT
from trainer.data.corpus import Corpus
from trainer.model.engine import Engine, Sampling
from trainer.model.tokenizer import Tokenizer
from trainer.tasks.problem import Problem
from trainer.tasks.question import Question

PROMPTS: Final = {
    "questions": "held-out questions",
    "preference_prompts": "prompts to compare answers on",
    "held_out_preference_prompts": "held-out prompts to compare answers on",
    "problems": "problems",
    "held_out_problems": "held-out problems",
    "sample_prompts": "sample prompts",
}
"""The parts of a corpus that models are asked, in words."""
SPARE: Final = {
    "preference_prompts": "spare_prompts",
    "held_out_preference_prompts": "held_out_spare_prompts",
}
"""What is asked in place of them, where none of them fits."""


class TooLong(ValueError):
    """What is asked leaves a model no room to answer; another ValueError says that it cannot be asked at all."""


def answer_room(context: int, max_new_tokens: int) -> int:
    """How many tokens a prompt may have; at most half of the context is kept free for the answer."""
    return context - min(max_new_tokens, context // 2)


def prompt_ids(
    tokenizer: Tokenizer, messages: Sequence[Message], *, stage: str, room: int, begun: str = ""
) -> list[int]:
    """Ids of the prompt, at most `room` of them; the oldest messages are left out first, so that somebody asks first.

    What the answer has `begun` with, if it is to be continued, follows and is not counted. ValueError when the last
    message alone does not fit.
    """
    if not messages:
        raise ValueError("There is no message to answer.")
    for first, message in enumerate(messages):
        if first > 0 and message["role"] == "assistant":
            continue  # no conversation a model was trained on begins with an answer
        ids = _ids(tokenizer, messages[first:], stage=stage)
        if len(ids) <= room:
            return [*ids, *_begun(tokenizer, messages[first:], begun, stage=stage)]
    raise _too_long(ids, room)


def asked_ids(tokenizer: Tokenizer, asked: Asked, *, stage: str, room: int) -> list[int]:
    """Ids of a single question after its system text; ValueError when they do not fit together."""
    ids = _ids(tokenizer, asked_messages(asked), stage=stage)
    if len(ids) > room:
        raise _too_long(ids, room)
    return ids


def _ids(tokenizer: Tokenizer, messages: Sequence[Message], *, stage: str) -> list[int]:
    if stage in (INIT, PRETRAIN):
        text = "\n".join(message["content"] for message in messages)
        return [*tokenizer.document_start_ids, *tokenizer.encode(text)]
    ids, _ = tokenizer.render_chat(messages, add_generation_prompt=True)
    return ids


def _begun(tokenizer: Tokenizer, messages: Sequence[Message], text: str, *, stage: str) -> list[int]:
    """Ids of the beginning of an answer, after the prompt that these messages make."""
    if stage in (INIT, PRETRAIN):
        return tokenizer.encode(text)
    _, [ids] = tokenizer.render_answers(messages, [text])
    return ids


def _too_long(ids: Sequence[int], room: int) -> TooLong:
    return TooLong(f"The message is too long for this model: {len(ids)} tokens, and there is room for {room}.")


def fitting_corpus(corpus: Corpus, tokenizer: Tokenizer, *, room: int) -> tuple[Corpus, list[str]]:
    """The corpus without prompts of more than `room` tokens, and what was left out, part by part, in words."""
    kept: dict[str, Any] = {}
    left_out: list[str] = []
    for part, name in PROMPTS.items():
        items = getattr(corpus, part)
        kept[part] = [item for item in items if _fits(item, tokenizer, room)]
        if too_long := len(items) - len(kept[part]):
            left_out.append(f"{too_long} of {len(items)} {name}")
    spare = {name: [item for item in getattr(corpus, name) if _fits(item, tokenizer, room)] for name in SPARE.values()}
    if all(spare.values()) and not all(kept[name] for name in SPARE):
        kept |= {name: spare[other] for name, other in SPARE.items()}
        left_out.append("and the questions of conversations are asked in place of those of comparisons")
    return dataclasses.replace(corpus, **kept), left_out


def _fits(item: Asked | Question | Problem, tokenizer: Tokenizer, room: int) -> bool:
    """Whether what is asked fits in the chat template, which is never shorter than the bare text."""
    try:
        asked_ids(tokenizer, item if isinstance(item, Asked) else item.asked, stage=SFT, room=room)
    except TooLong:
        return False
    return True


def greedy_samples(
    engine: Engine, tokenizer: Tokenizer, prompts: Sequence[Asked], *, stage: str, max_new_tokens: int
) -> list[dict[str, str]]:
    """What the model says to fixed prompts, greedily: the samples shown while it trains."""
    room = answer_room(engine.config.context, max_new_tokens)
    max_new_tokens = engine.config.context - room
    ids = [asked_ids(tokenizer, prompt, stage=stage, room=room) for prompt in prompts]
    how = Sampling(temperature=0.0, max_new_tokens=max_new_tokens)
    completions = engine.generate(ids, [how] * len(ids))
    return [
        {"prompt": asked_shown(prompt), "text": tokenizer.decode(completion.tokens)}
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
