"""A model from elsewhere moves into a fresh site: `manage.py up --start SOURCE`.

The idea: the source is kept in the curriculum's row, and so is how far the import has come. The process of the first
start does the work and writes it there, a page reads it, the terminal is told the same. What was begun and not finished
goes on at any start; what failed is tried again at the next, unless that says `--start random`. Only an empty site is
filled: models that are here stay.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from django.conf import settings
from django.template.defaultfilters import filesizeformat

from trainer.presets import get_preset
from trainer.runtime.reading import path_of
from webapp.checkpoints.cards import plain
from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.sources import why_not
from webapp.training.models import LONGEST_SOURCE, Curriculum
from webapp.training.services import usual_preset

logger = logging.getLogger(__name__)

WRITTEN_EVERY_S: Final = 0.5
"""How often the row says how far it is."""
SAID_EVERY_S: Final = 5.0
"""And how often the terminal does."""
LONGEST_SAID: Final = 200
RANDOM: Final = "random"
"""What to give to --start for random weights after all."""
WAY_ON: Final = f"The next start tries again; with --start {RANDOM} it begins with random weights instead."

NOTHING_YET: Final = {"start_text": "", "start_done": 0, "start_total": 0}
"""How far an import is before it has begun, and when there is none."""

Moving = Curriculum.Moving
Say = Callable[[str], None]


def source_name(source: str) -> str:
    """What a source is called: the last part of a path or a hub's name."""
    return source.rstrip("/").rpartition("/")[2].removeprefix("hub:") or source


def same_source(source: str) -> str:
    """One spelling for one source: a path from wherever it was typed is a whole one."""
    source = source.strip()
    path = None if source == RANDOM else path_of(source)
    return source if path is None else str(path.resolve())


def check_start(source: str) -> str:
    """What to say of a `--start` that has nothing to do; empty where it has. ValueError refuses it in one sentence."""
    source = same_source(source)
    if source == RANDOM:
        return "Models are here already; --start has nothing to do." if Checkpoint.objects.listed().exists() else ""
    row = Curriculum.objects.first()
    if row and row.start_state == Moving.DONE and row.start_source == source:
        return f"{source_name(source)} is here already; --start has nothing to do."
    if Checkpoint.objects.exists() and not (row and row.start_source == source):
        raise ValueError(
            f"{settings.DATA_DIR} holds models already, and --start {source_name(source)} is for an empty site. Leave "
            "--start out, set DATA_DIR to a new directory, or add the model with `manage.py import_checkpoint`."
        )
    return ""


def want(source: str) -> None:
    """Remember what the site is to be raised from; the import is done by `move_in`. ValueError as `check_start`."""
    if check_start(source):
        return
    source = same_source(source)
    if source == RANDOM:
        Curriculum.objects.filter(pk=1).update(start_source="", start_state=Moving.NONE, **NOTHING_YET)
        return
    if len(source) > LONGEST_SOURCE:
        raise ValueError("The name given to --start is too long to be one.")
    if not source.isprintable():
        raise ValueError("The name given to --start holds what is no text. Give the file or directory another name.")
    Curriculum.objects.filter(pk=1).exclude(start_source=source, start_state=Moving.UNDER_WAY).update(
        start_source=source, start_state=Moving.UNDER_WAY, **NOTHING_YET
    )


def is_wanted() -> bool:
    """Whether a model from elsewhere is to come in, and is not here yet."""
    return Curriculum.objects.filter(start_state__in=(Moving.UNDER_WAY, Moving.FAILED)).exists()


def move_in(say: Say) -> bool:
    """Import what the site is to be raised from; True once it is here. `say` gets sentences for the terminal.

    Never raises for what can go wrong with a source: the row keeps the sentence, and the next start tries again.
    """
    row = Curriculum.objects.get(pk=1)
    if not Checkpoint.objects.listed().exists():  # else a start that was killed between the import and the row
        say(f"{source_name(row.start_source)} is moving in.")
        Curriculum.objects.filter(pk=1).update(start_state=Moving.UNDER_WAY, **NOTHING_YET)
        try:
            arrived = _import(row.start_source, Progress(say))
        except (ValueError, OSError) as error:
            return _failed(why_not(error), say)
        except Exception as error:
            logger.exception("The import of %s broke", row.start_source)
            return _failed(f"It broke ({type(error).__name__}); the terminal says where.", say)
        if not arrived.source:  # a directory says nothing of itself, one that another site of ours wrote least of all
            Checkpoint.objects.filter(pk=arrived.pk).update(source=source_name(row.start_source)[:300])
    here = Checkpoint.objects.listed().earliest("created_at")
    taste = get_preset(usual_preset(here)).taste
    Curriculum.objects.filter(pk=1).update(taste=taste, start_state=Moving.DONE, **NOTHING_YET)
    say(f"{here.name} is here, {here.parameters / 1e6:,.1f} million parameters. Chat with it.")
    return True


def _import(source: str, progress: Progress) -> Checkpoint:
    # Imported here: it pulls in torch, which the web process (it reads this module's row) must not load.
    from webapp.checkpoints.sources import import_source

    return import_source(source, progress=progress)


def _failed(reason: str, say: Say) -> bool:
    reason = reason if reason.endswith((".", "!", "?")) else f"{reason}."
    text = f"{reason} {WAY_ON}"
    Curriculum.objects.filter(pk=1).update(start_state=Moving.FAILED, start_text=text)
    say(f"It could not be brought in: {text}")
    return False


class Progress:
    """Called with what is being done and how many bytes of it, often; writes and says it seldom."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._text = ""
        self._written = self._said = float("-inf")

    def __call__(self, text: str, done: int = 0, total: int = 0) -> None:
        now, is_new = time.monotonic(), text != self._text
        self._text, text = text, plain(text, most=LONGEST_SAID)
        is_whole = bool(total) and done >= total
        if is_new or is_whole or now - self._written >= WRITTEN_EVERY_S:
            self._written = now
            Curriculum.objects.filter(pk=1).update(start_text=text, start_done=done, start_total=total)
        if is_new or is_whole or now - self._said >= SAID_EVERY_S:
            self._said = now
            self._say(f"{text}{amount(done, total)}")


def amount(done: int, total: int) -> str:
    """How much of it, in bytes and per cent, where that is known."""
    if not total:
        return f": {filesizeformat(done)}" if done else ""
    return f": {filesizeformat(done)} of {filesizeformat(total)}, {100 * min(done, total) // total} %"
