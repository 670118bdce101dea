"""A server on loopback that speaks the part of the Hugging Face hub's protocol which is used here."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server has, what it was asked, and how it misbehaves."""

    files: dict[str, bytes]
    """Of the one model there is, small/fox; *.safetensors and *.gguf are kept by Git LFS, as on the hub."""
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(file, Range header) of every file that was asked for."""
    cut_after: int | None = None
    """Bytes after which a file's connection breaks, once."""
    ignores_ranges: bool = False
    corrupts: str = ""
    """A file whose bytes come changed."""
    gated: bool = False
    says_sizes: dict[str, Any] = field(default_factory=dict)
    """Sizes told instead of the true ones."""

    says_instead: bytes | None = None
    """Its answer to whoever looks a model up."""

    @property
    def fetched(self) -> list[str]:
        return [name for name, _ in self.asked]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/small/fox(?:/revision/([^/]+))?", path):
            self.info(found[1])
        elif found := re.fullmatch(rf"/small/fox/resolve/{COMMIT}/(.+)", path):
            self.file(found[1])
        else:
            self.refuse(404, "RepoNotFound")

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, b"{}", **{"X-Error-Code": code, "X-Error-Message": code})

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def info(self, revision: str | None) -> None:
        if revision not in (None, "main", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        siblings = []
        for name, content in self.hub.files.items():
            size = self.hub.says_sizes.get(name, len(content))
            one: dict[str, Any] = {"rfilename": name, "size": size, "blobId": git_sha1(content)}
            if name.endswith((".safetensors", ".gguf")):
                one["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}
            siblings.append(one)
        body = json.dumps({"id": "small/fox", "modelId": "small/fox", "sha": COMMIT, "siblings": siblings}).encode()
        body = body if self.hub.says_instead is None else self.hub.says_instead
        return self.answer(200, body, **{"Content-Type": "application/json"})

    def file(self, name: str) -> None:
        asked = self.headers.get("Range", "")
        self.hub.asked.append((name, asked))
        if self.hub.gated:
            return self.refuse(403, "GatedRepo")
        if name not in self.hub.files:
            return self.refuse(404, "EntryNotFound")
        content = self.hub.files[name]
        if name == self.hub.corrupts:
            content = bytes([content[0] ^ 1]) + content[1:]
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and not self.hub.ignores_ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{git_sha1(content)}"')
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        part = content[start:]
        if self.hub.cut_after is not None and len(part) > self.hub.cut_after:
            self.wfile.write(part[: self.hub.cut_after])
            self.hub.cut_after = None
            self.close_connection = True
            return None
        with suppress(ConnectionError):  # whoever asked may have had enough
            self.wfile.write(part)
        return None


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what is tested."""


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hub]:
    hub = Hub(files)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
