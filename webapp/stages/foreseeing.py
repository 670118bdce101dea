"""What comes next, from a generate worker's side: the checkpoint reads the text, and its last logits are noted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from trainer.data.prompting import prompt_ids
from trainer.model.engine import Engine
from webapp.answers.engines import LoadedEngine, engines
from webapp.answers.finding import found_or_why
from webapp.stages.models import NextTokens
from webapp.stages.next_tokens import BUSY, GIVE_UP, SHOWN, TEMPERATURES, Found

FAILED: Final = "The model failed while reading; ask again."


def find_next(pk: int) -> None:
    """Find what a row waits for; any other is left alone."""
    row = NextTokens.objects.select_related("checkpoint").filter(pk=pk, found__isnull=True).first()
    if row is None:
        return
    found, problem = found_or_why(
        partial(find, row),
        within_s=GIVE_UP.total_seconds(),
        busy=BUSY,
        failed=FAILED,
        what=f"finding what comes after {row!r}",
    )
    NextTokens.objects.filter(pk=pk, found__isnull=True).update(found=found, problem=problem[:300])


def find(row: NextTokens, *, is_unwanted: Callable[[], bool]) -> Found:
    """What the row's checkpoint thinks comes after its text."""
    with engines.borrow(row.checkpoint, is_unwanted=is_unwanted) as engine:
        return read(engine, row.text)


def read(engine: LoadedEngine, text: str) -> Found:
    """The likeliest tokens after `text`; ValueError when it does not fit."""
    messages = [{"role": "user", "content": text}]
    ids = prompt_ids(engine.tokenizer, messages, stage=engine.stage, room=engine.config.context)

    def last_logits(running: Engine) -> Any:
        return running.logits(running.read(ids)[-1:]).squeeze(0)  # [V]

    logits = engine.service.call(last_logits)
    below = logits - logits.max()
    values, likeliest = below.topk(min(SHOWN, len(below)))
    pieces = [engine.tokenizer.piece(id) for id in likeliest.tolist()]
    return Found(
        tokens=[
            # PostgreSQL keeps no NUL in JSON.
            (piece.text.replace("\0", "NUL"), piece.kind, round(value, 4))
            for piece, value in zip(pieces, values.tolist(), strict=True)
        ],
        log_sums=[round((below / temperature).logsumexp(0).item(), 4) for temperature in TEMPERATURES],
        vocabulary=len(below),
    )
