"""Looking into one answer: its ids are put together again, and its model, then its parent, reads them.

One after the other, so that no two tasks wait for each other's engine, and both within the memory that engines have.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from functools import partial

from trainer.config import GRPO, INIT, PPO, PRETRAIN
from trainer.evaluation.microscope import TokenView, look
from trainer.model.tokenizer import Tokenizer
from webapp.answers.engines import LoadedEngine, engines
from webapp.answers.finding import found_or_why
from webapp.answers.looks import BUSY, GIVE_UP_S, Found, FoundOther, FoundToken, Spelled, finish_look, waiting_look
from webapp.answers.models import Generation
from webapp.checkpoints.models import Checkpoint

MOST_TOKENS = 1024
"""Longer answers are refused: the page would get slow, and nobody goes through so many."""
FAILED = "The model failed while reading; open the tokens again."
COMPARED = (PPO, GRPO)
"""Stages that are read beside the checkpoint they were trained from: before, the model did not converse."""
NUL = "\0"
"""PostgreSQL keeps no such letter in JSON."""


class NoParent(ValueError):
    """There is nothing to compare with; the message says why."""


def look_into(*, generation_id: str) -> None:
    """Find what there is to see in an answer that somebody waits to look into; any other is left alone."""
    waiting = waiting_look(uuid.UUID(generation_id))
    if waiting is None:
        return
    found, problem = found_or_why(
        partial(find, waiting.generation),
        within_s=GIVE_UP_S,
        busy=BUSY,
        failed=FAILED,
        what=f"looking into generation {generation_id}",
    )
    finish_look(look=waiting, found=found, problem=problem)


def find(generation: Generation, *, is_unwanted: Callable[[], bool]) -> Found:
    """What the model, and for some stages its parent, thought of every token of the answer."""
    checkpoint = generation.checkpoint
    with engines.borrow(checkpoint, is_unwanted=is_unwanted) as engine:
        ids, start = answer_ids(engine, generation)
        if len(ids) - start > MOST_TOKENS:
            raise ValueError(
                f"This answer has {len(ids) - start:,} tokens, and no more than {MOST_TOKENS:,} are looked at."
            )
        tokenizer = engine.tokenizer
        views = look(engine.service, ids, start)
    before: list[TokenView] | None = None
    no_parent = ""
    if checkpoint.stage in COMPARED:
        try:
            before = _parents_views(checkpoint, tokenizer, ids, start, views, is_unwanted)
        except NoParent as error:
            no_parent = str(error)
    parent = checkpoint.parent.get_stage_display() if before is not None and checkpoint.parent else ""
    return Found(
        tokens=[_found(tokenizer, view, before[place] if before else None) for place, view in enumerate(views)],
        is_exact=generation.token_ids is not None,
        parent=parent,
        no_parent=no_parent,
    )


def answer_ids(engine: LoadedEngine, generation: Generation) -> tuple[list[int], int]:
    """What the model read and wrote, as ids, and where its answer begins in them.

    The ids of an answer are kept with it. Of one from before they were, its text is cut into tokens again; and of one
    that continues another, what it began with, just as the model was given it.
    """
    messages, most = generation.messages, generation.sampling["max_new_tokens"]
    is_continued = messages[-1]["role"] == "assistant"
    asked = messages[:-1] if is_continued else messages
    start = len(engine.prompt(asked, most))
    if generation.token_ids is not None:
        return [*engine.prompt(messages, most), *generation.token_ids], start
    ids = engine.prompt([*asked, {"role": "assistant", "content": generation.text}], most)
    if generation.finish_reason == "end":
        ids.append(_likely_end(engine.tokenizer, engine.stage))
    return ids, start


def _likely_end(tokenizer: Tokenizer, stage: str) -> int:
    """What an answer ended with whose ids nobody kept."""
    is_document = stage in (INIT, PRETRAIN) and tokenizer.document_end_id in tokenizer.end_ids
    return tokenizer.document_end_id if is_document else tokenizer.end_id


def _parents_views(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    ids: Sequence[int],
    start: int,
    views: Sequence[TokenView],
    is_unwanted: Callable[[], bool],
) -> list[TokenView]:
    """What the checkpoint it was trained from thought of the same tokens and of the likeliest others."""
    parent = checkpoint.parent
    if parent is None:
        raise NoParent("Which checkpoint it was trained from is not known here, so there is nothing to compare with.")
    if parent.archived:
        raise NoParent(f"{parent.name}, which it was trained from, has been archived, so nothing is compared.")
    asked = [[id for id, _ in view.others] for view in views]
    try:
        with engines.borrow(parent, is_unwanted=is_unwanted) as engine:
            if engine.tokenizer.roles.ids != tokenizer.roles.ids:
                raise NoParent(f"{parent.name}, which it was trained from, has other tokens, so nothing is compared.")
            return look(engine.service, ids, start, top=1, asked=asked)
    except NoParent:
        raise
    except ValueError as error:
        raise NoParent(
            f"{parent.name}, which it was trained from, could not read it, so nothing is compared."
        ) from error


def _found(tokenizer: Tokenizer, view: TokenView, before: TokenView | None) -> FoundToken:
    others = [
        FoundOther(
            piece=_spelled(tokenizer, id),
            probability=_short(probability),
            before=None if before is None else _short(before.asked[place]),
        )
        for place, (id, probability) in enumerate(view.others)
    ]
    return FoundToken(
        piece=_spelled(tokenizer, view.id),
        probability=_short(view.probability),
        rank=view.rank,
        before=None if before is None else _short(before.probability),
        others=others,
        parents_first=None if before is None else _first(tokenizer, before),
    )


def _first(tokenizer: Tokenizer, before: TokenView) -> FoundOther:
    written = (before.id, before.probability)
    id, probability = written if before.rank == 1 or not before.others else before.others[0]
    return FoundOther(piece=_spelled(tokenizer, id), probability=_short(probability), before=None)


def _spelled(tokenizer: Tokenizer, id: int) -> Spelled:
    piece = tokenizer.piece(id)
    if NUL in piece.text:
        return piece.text.encode().hex(" ").upper(), "bytes"
    return piece.text, "end" if id in tokenizer.end_ids else piece.kind


def _short(probability: float) -> float:
    return float(f"{probability:.4g}")
