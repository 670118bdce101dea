"""A model from the Hugging Face hub, or a server that speaks like it: only the files needed, whole, and no others.

The idea: a name is first looked up. The answer says which commit it is today and how large every file is, so that the
disk is asked before anything is fetched, and the files of one commit are never mixed with another's. A file grows under
the name `.part` and takes its own once its hash is the one the hub told; what was cut off goes on where it was, in this
run and in the next. Weights come as safetensors, or as one .gguf file if it is named; pickles never.

huggingface_hub does the talking (names, tokens, mirrors by HF_ENDPOINT, what a refusal means). It gave up going on with
a file that another process began, so the bytes are read here, through its own session. Free of torch.

    fetch("HuggingFaceTB/SmolLM2-135M-Instruct", into=Path("downloads"))
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from trainer.runtime.files import check_room

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes there are."""

NEEDED: Final = ("config.json", "tokenizer.json")
WANTED: Final = re.compile(
    r"config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json"
    r"|added_tokens\.json|chat_template\.(jinja|json)|README\.md|LICEN[CS]E(\.(md|txt))?|NOTICE(\.(md|txt))?"
    r"|model\.safetensors\.index\.json"
)
WEIGHTS: Final = re.compile(r"model\.safetensors|model-\d{5}-of-\d{5}\.safetensors")
NAME: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*|\w[\w.-]*", re.ASCII)
LARGEST_FILE: Final = 10**12
CHUNK_BYTES: Final = 2**20
TIMEOUT_S: Final = 30.0
TRIES: Final = 5
"""How often a connection may break without having brought a single byte."""
PAUSE_S: Final = 1.0


@dataclass(frozen=True)
class HubModel:
    """A model as it was fetched."""

    directory: Path
    """Holds its files and nothing else."""
    name: str
    """owner/name"""
    commit: str
    """What its files were fetched at, whatever branch or tag was asked for."""
    gguf: str = ""
    """The one .gguf file it was asked for by."""


@dataclass(frozen=True)
class _File:
    name: str
    size: int
    sha256: str
    """Empty for small files, which have git's own hash."""
    git_sha1: str


def parse(address: str) -> tuple[str, str, str]:
    """(owner/name, file in it, revision) of `owner/name[/file.gguf][@revision]`; ValueError for what is none."""
    place, _, revision = address.partition("@")
    parts = place.split("/")
    file = "/".join(parts[2:])
    name = "/".join(parts[:2])
    if not NAME.fullmatch(name) or ".." in name or (file and not file.lower().endswith(".gguf")):
        raise ValueError(
            f"hub:{address[:100]} names no model. Write hub:owner/name, hub:owner/name@revision, or "
            "hub:owner/name/file.gguf."
        )
    return name, file, revision


def fetch(address: str, *, into: Path, progress: Progress = lambda done, of: None) -> HubModel:
    """Fetch a model's files into a directory below `into`, or what is missing of them there.

    `address` is `owner/name[/file.gguf][@revision]`. ValueError in one sentence that says what to do: no such model,
    file or revision, no right to it, nothing in it that is read here, no network, no room. What was fetched by then
    stays, and the next call goes on from it.
    """
    name, gguf, revision = parse(address)
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ValueError(
            "Models from the hub need a package that is not installed: pip install huggingface_hub."
        ) from error
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    with _said_plainly(api, name, revision):
        commit, found = _look_up(api, name, revision)
        files = _chosen(name, gguf, found)
        directory = into / f"{name.replace('/', '--')}-{commit[:12]}"
        if gguf:
            directory = directory.with_name(f"{directory.name}-gguf")
        directory.mkdir(parents=True, exist_ok=True)
        _fetch_all(api, name, commit, files, directory, progress)
    return HubModel(directory, name, commit, Path(gguf).name)


def _look_up(api: HfApi, name: str, revision: str) -> tuple[str, list[_File]]:
    """(commit, files) of a model; ValueError for an answer that is no hub's: a mirror's, or a login page on the way."""
    try:
        info = api.model_info(name, revision=revision or None, files_metadata=True, timeout=TIMEOUT_S)
        files = [_file(one) for one in info.siblings or []]
    except (json.JSONDecodeError, UnicodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{_host(api)} gave no hub's answer when asked for {name}: check HF_ENDPOINT, or log in to the network."
        ) from error
    if not isinstance(info.sha, str) or not re.fullmatch(r"[0-9a-f]{40,64}", info.sha):
        raise ValueError(f"{_host(api)} did not say which commit of {name} it has; try again, or another mirror.")
    return info.sha, files


def _file(sibling: Any) -> _File:
    """What the hub says of a file; its words are claims, so they are bounded."""
    size = sibling.size if isinstance(sibling.size, int) and 0 <= sibling.size < LARGEST_FILE else -1
    sha256 = str(getattr(sibling.lfs, "sha256", None) or "")
    return _File(str(sibling.rfilename), size, sha256, str(sibling.blob_id or ""))


def _chosen(name: str, gguf: str, files: list[_File]) -> list[_File]:
    """The files to fetch; ValueError where they make no model."""
    found = {file.name: file for file in files}
    if gguf:
        cards = [found[card] for card in ("README.md",) if card in found]
        if gguf not in found:
            others = ", ".join(sorted(file for file in found if file.lower().endswith(".gguf"))[:5])
            raise ValueError(f"{name} has no file {gguf[:100]}; it has {others[:300] or 'no .gguf file at all'}.")
        chosen = [found[gguf], *cards]
    else:
        chosen = [file for file in files if WANTED.fullmatch(file.name)]
        weights = [file for file in files if WEIGHTS.fullmatch(file.name)]
        whole = [file for file in weights if file.name == "model.safetensors"]
        if not weights:
            quantised = sorted(file for file in found if file.lower().endswith(".gguf"))
            hint = f" Name one of its .gguf files, as hub:{name}/{quantised[0][:100]}." if quantised else ""
            raise ValueError(f"{name} has no weights as model.safetensors; nothing else is read.{hint}")
        if missing := [needed for needed in NEEDED if needed not in found]:
            raise ValueError(f"{name} has no {missing[0]}: it is not a language model that can be read here.")
        chosen += whole or weights
    if unsaid := [file.name for file in chosen if file.size < 0]:
        raise ValueError(f"The hub does not say how large {unsaid[0][:100]} of {name} is; it is not fetched.")
    return chosen


def _fetch_all(api: HfApi, name: str, commit: str, files: list[_File], directory: Path, progress: Progress) -> None:
    targets = {file: directory / Path(file.name).name for file in files}
    total = sum(file.size for file in files)
    done = sum(_have(target) for target in targets.values())
    check_room(directory, total - done, name)
    progress(done, total)
    for file, target in targets.items():
        if target.is_file():
            continue
        for grown in _grow(api, name, commit, file, target.with_name(f"{target.name}.part")):
            done += grown
            progress(done, total)
        _check(file, target.with_name(f"{target.name}.part"))
        os.replace(target.with_name(f"{target.name}.part"), target)


def _have(target: Path) -> int:
    """Bytes of a file that are here."""
    part = target.with_name(f"{target.name}.part")
    return next((path.stat().st_size for path in (target, part) if path.is_file()), 0)


def _grow(api: HfApi, name: str, commit: str, file: _File, part: Path) -> Iterator[int]:
    """Fetch what is missing of one file; yields by how much it grew (less than nothing where it begins again)."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # the session's own, under every version
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    url = hf_hub_url(name, file.name, revision=commit, endpoint=api.endpoint)
    left = TRIES
    part.touch()
    while (have := part.stat().st_size) < file.size:
        headers = build_hf_headers(token=api.token) | {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        try:
            with (
                get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S) as response,
                part.open("r+b") as out,
            ):
                hf_raise_for_status(response)
                if response.status_code != 206 and have:  # it sends the whole file all the same
                    yield -have
                    have = 0
                out.seek(have)
                out.truncate()
                for chunk in response.iter_bytes():
                    have += len(chunk)
                    if have > file.size:
                        break
                    out.write(chunk)
                    left = TRIES
                    yield len(chunk)
        except HTTPError as error:
            left -= 1
            if getattr(error, "response", None) is not None or not left:
                raise
            time.sleep(PAUSE_S)
            continue
        if have < file.size:
            left -= 1
        if have > file.size or not left:
            part.unlink()
            raise ValueError(f"{file.name} of {name} is not as large as the hub says; try again, or another mirror.")


def _check(file: _File, part: Path) -> None:
    """ValueError unless a fetched file has the hash that the hub told; then it is gone, to be fetched anew."""
    with part.open("rb") as content:
        if file.sha256:
            wanted, found = file.sha256, hashlib.file_digest(content, "sha256").hexdigest()
        else:
            wanted, found = file.git_sha1, _git_sha1(content, file.size)
    if wanted and wanted != found:
        part.unlink()
        raise ValueError(f"{file.name} came damaged: its hash is not the one the hub tells. Try again.")


def _git_sha1(content: IO[bytes], size: int) -> str:
    """https://git-scm.com/book/en/v2/Git-Internals-Git-Objects"""
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    while data := content.read(CHUNK_BYTES):
        digest.update(data)
    return digest.hexdigest()


def _host(api: HfApi) -> str:
    """What people are told of the address: a mirror's may hold a name and a password."""
    address = re.sub(r"//[^/]*@", "//", api.endpoint)
    return f"The hub at {address}"


@contextmanager
def _said_plainly(api: HfApi, name: str, revision: str) -> Iterator[None]:
    """ValueError, in one sentence, for whatever the hub or the way there refuses."""
    from huggingface_hub import errors
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except errors.GatedRepoError as error:
        raise ValueError(
            f"{name} is given out only to those who agreed to its terms: do so on its page, then set HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"{_host(api)} has no model {name}, or none that you may see: check the name; a private one needs HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{name} has no revision {revision[:100]}: name a branch, a tag or a commit of it.") from error
    except errors.OfflineModeIsEnabled as error:
        raise ValueError(
            f"HF_HUB_OFFLINE is set, so {name} is not looked for: unset it, or name a directory."
        ) from error
    except errors.HFValidationError as error:
        raise ValueError(f"{name} is no name that the hub could have.") from error
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", "an error")
        raise ValueError(f"{_host(api)} answered {status} when asked for {name}; try again later.") from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise ValueError(
            f"{_host(api)} cannot be reached ({type(error).__name__}): check the network, or set HF_ENDPOINT to a "
            "mirror. What was fetched of the model is kept."
        ) from error
