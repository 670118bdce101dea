"""The engine cache with real, tiny, random models; and an answer through all of it."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from django.core.management import CommandError, call_command
from safetensors.torch import load_file, save_file

from tests.threads import database_thread
from trainer.config import ModelConfig
from trainer.model.checkpoint import save_checkpoint
from trainer.model.decoder import LanguageModel
from trainer.model.engine import Engine, Sampling
from trainer.model.layout import read_layout
from trainer.model.products import can_pack
from trainer.model.tokenizer import Tokenizer
from trainer.presets import RECIPES, shape
from trainer.runtime import machine
from webapp.answers import engines as engines_module
from webapp.answers import services, writing
from webapp.answers.engines import (
    DoesNotFit,
    Engines,
    Footprint,
    LoadedEngine,
    NotWaitedFor,
    chat_threads,
    engine_device,
    footprint,
    load,
    render_prompt,
    tensor_bytes,
)
from webapp.answers.models import Generation
from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.services import register_checkpoint

pytestmark = pytest.mark.django_db

MEGABYTE = 2**20
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["What does a fox eat? A fox eats mice, berries and bread. 0123456789"] * 8, 300)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A checkpoint of random weights with a context of 64 tokens."""
    path = tmp_path_factory.mktemp("checkpoints") / "random"
    model = LanguageModel(shape(1, vocab_size=tokenizer.vocab_size, context=64, kv_heads=1))
    model.init_weights(torch.Generator().manual_seed(1))
    return save_checkpoint(path, model, tokenizer, stage="sft", info={"preset": "smoke", "metrics": {}})


@pytest.fixture
def checkpoint(directory: Path, tmp_path: Path) -> Callable[[], Checkpoint]:
    """Registers another copy of the random checkpoint."""
    made: list[Checkpoint] = []

    def register() -> Checkpoint:
        source = tmp_path / f"source-{len(made)}"
        shutil.copytree(directory, source)
        made.append(register_checkpoint(directory=source))
        return made[-1]

    return register


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engines]:
    monkeypatch.setattr("webapp.answers.engines.MAX_BATCH", 4)  # an engine's size is then the same in any budget
    cache = Engines()
    monkeypatch.setattr(writing, "engines", cache)
    yield cache
    cache.close()


def engine_bytes(directory: Path) -> int:
    engine = load(directory, stage="sft")
    engine.service.close()
    return engine.bytes


def test_one_checkpoint_is_loaded_once_for_many_readers(engines: Engines, checkpoint: Callable[[], Checkpoint]) -> None:
    one = checkpoint()
    with engines.borrow(one) as first, engines.borrow(one) as second:
        assert first is second
        assert first.users == 2
    assert first.users == 0


def test_the_least_recently_used_is_dropped_under_the_budget(
    engines: Engines, checkpoint: Callable[[], Checkpoint], directory: Path, settings: Any
) -> None:
    settings.ENGINE_MEMORY_MB = 2.5 * engine_bytes(directory) / MEGABYTE
    a, b, c = checkpoint(), checkpoint(), checkpoint()
    for one in (a, b, a, c):
        with engines.borrow(one):
            pass
    assert engines.loaded() == [a.pk, c.pk]


def test_two_that_are_loaded_at_once_are_counted_against_each_other(
    engines: Engines,
    checkpoint: Callable[[], Checkpoint],
    directory: Path,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.ENGINE_MEMORY_MB = 1.5 * engine_bytes(directory) / MEGABYTE
    a, b = checkpoint(), checkpoint()
    loads: list[Path] = []
    begun, may_end = threading.Event(), threading.Event()

    def slow(path: Path, **rest: Any) -> LoadedEngine:
        loads.append(path)
        begun.set()
        assert may_end.wait(30)
        return load(path, **rest)

    monkeypatch.setattr(engines_module, "load", slow)

    def borrow(one: Checkpoint) -> None:
        with engines.borrow(one):
            pass

    first, second = (threading.Thread(target=borrow, args=[one]) for one in (a, b))
    first.start()
    assert begun.wait(30)
    second.start()
    second.join(0.3)
    assert loads == [a.path]  # the second waits for the memory that the first is going to take
    may_end.set()
    first.join(30)
    second.join(30)
    assert loads == [a.path, b.path]
    assert engines.loaded() == [b.pk]


def test_a_model_in_use_is_waited_for_not_dropped(
    engines: Engines, checkpoint: Callable[[], Checkpoint], directory: Path, settings: Any
) -> None:
    settings.ENGINE_MEMORY_MB = 1.5 * engine_bytes(directory) / MEGABYTE
    a, b = checkpoint(), checkpoint()
    borrowed = threading.Event()

    def borrow_b() -> None:
        with engines.borrow(b):
            borrowed.set()

    with engines.borrow(a):
        waiting = threading.Thread(target=borrow_b)
        waiting.start()
        assert engines.loaded() == [a.pk]
        assert not borrowed.is_set()
    waiting.join(timeout=30)
    assert borrowed.is_set()
    assert engines.loaded() == [b.pk]


def test_a_model_somebody_waits_for_the_memory_of_takes_no_newcomers(
    engines: Engines, checkpoint: Callable[[], Checkpoint], directory: Path, settings: Any
) -> None:
    settings.ENGINE_MEMORY_MB = 1.5 * engine_bytes(directory) / MEGABYTE
    a, b = checkpoint(), checkpoint()
    waits = threading.Event()

    def borrow_b() -> None:
        # What it is asked while it waits: yes, it is still wanted.
        with engines.borrow(b, is_unwanted=lambda: bool(waits.set())):
            pass

    with engines.borrow(a) as first:
        waiting = threading.Thread(target=borrow_b)
        waiting.start()
        assert waits.wait(timeout=30)
        with pytest.raises(NotWaitedFor), engines.borrow(a, is_unwanted=lambda: True):
            pass
        assert first.users == 1
    waiting.join(timeout=30)
    assert engines.loaded() == [b.pk]
    with engines.borrow(a) as second:
        assert second is not first


def test_a_model_nobody_waits_for_any_more_can_be_had_again(
    engines: Engines, checkpoint: Callable[[], Checkpoint], directory: Path, settings: Any
) -> None:
    settings.ENGINE_MEMORY_MB = 1.5 * engine_bytes(directory) / MEGABYTE
    a, b = checkpoint(), checkpoint()
    with engines.borrow(a), pytest.raises(NotWaitedFor), engines.borrow(b, is_unwanted=lambda: True):
        pass
    with engines.borrow(a):
        assert engines.loaded() == [a.pk]


@pytest.mark.parametrize("room", [0.5, 1.5])
def test_who_no_longer_wants_a_model_stops_waiting_for_it(
    room: float, engines: Engines, checkpoint: Callable[[], Checkpoint], directory: Path, settings: Any
) -> None:
    size = engine_bytes(directory)
    a, b = checkpoint(), checkpoint()
    settings.ENGINE_MEMORY_MB = 1.5 * size / MEGABYTE
    with engines.borrow(a):
        if room < 1:  # not even its weights fit beside the other; else only its cache does not
            Checkpoint.objects.filter(pk=b.pk).update(parameters=size)
            b.refresh_from_db()
        threads = threading.active_count()
        with pytest.raises(NotWaitedFor), engines.borrow(b, is_unwanted=lambda: True):
            pass
        assert threading.active_count() == threads
    with engines.borrow(b):
        assert engines.loaded() == [b.pk]


def test_an_engine_that_broke_is_loaded_anew(engines: Engines, checkpoint: Callable[[], Checkpoint]) -> None:
    one = checkpoint()
    with pytest.raises(RuntimeError, match="broken"), engines.borrow(one) as first:
        raise RuntimeError("broken")
    with engines.borrow(one) as second:
        assert second is not first
    first.service.close()


def test_a_question_it_cannot_take_leaves_the_engine_loaded(
    engines: Engines, checkpoint: Callable[[], Checkpoint]
) -> None:
    one = checkpoint()
    with pytest.raises(ValueError, match="too long"), engines.borrow(one) as engine:
        engine.submit([{"role": "user", "content": "9" * 200}], {"max_new_tokens": 8})
    assert engines.loaded() == [one.pk]


# -- memory ----------------------------------------------------------------------------------------


def held(directory: Path) -> tuple[int, Engine]:
    """(bytes expected of the weights, the engine they are in)."""
    loaded = load(directory, stage="sft")
    loaded.service.close()
    return footprint(directory).weights, loaded.service._engine


@pytest.fixture
def wide(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """A model from elsewhere in bfloat16, too wide to be joined, that reads 8,192 tokens."""
    config = ModelConfig(vocab_size=tokenizer.vocab_size, heads=5, kv_heads=1, layers=2, ffn=512, context=8192)
    model = LanguageModel(config)
    model.init_weights(torch.Generator().manual_seed(1))
    path = save_checkpoint(tmp_path / "wide", model, tokenizer, stage="sft", info={"metrics": {}})
    (path / "stage.json").unlink()
    weights = load_file(path / "model.safetensors")
    save_file({name: weight.bfloat16() for name, weight in weights.items()}, path / "model.safetensors")
    return path


@pytest.mark.parametrize("is_fast", [True, False])
def test_weights_are_held_once_and_expected_as_they_are(
    is_fast: bool, directory: Path, wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_is_fast_in_bfloat16", lambda width: is_fast)
    for path, width_bytes in ((directory, 4), (wide, 2 if is_fast else 4)):
        expected, engine = held(path)
        assert engine.model.decoder.norm.weight.dtype.itemsize == width_bytes
        # Tables of positions and the like, whatever the model's size.
        assert expected <= tensor_bytes(engine) <= expected + MEGABYTE / 6
    config, layout = engine.model.config, read_layout(wide)
    head = config.vocab_size * config.width if can_pack("cpu", engine.model.decoder.norm.weight.dtype) else 0
    assert expected == (layout.parameters + head) * width_bytes  # nothing else of the wide one is held twice


def test_the_model_that_is_named_first_fits_where_nothing_is_set() -> None:
    """SmolLM2-135M in float32, on a processor without instructions for bfloat16 and in little memory."""
    config = RECIPES["adapted-135m"].model
    numbers = config.parameters + config.vocab_size * config.width
    token = config.layers * 2 * config.kv_heads * config.head_dim
    needs = Footprint(
        device=torch.device("cpu"), dtype=torch.float32, config=config, weights=4 * numbers, token=4 * token
    )
    assert needs.cache_tokens(768 * MEGABYTE) >= 512
    for name in ("webapp/settings.py", "docker-compose.yml"):
        assert "768" in next(line for line in (ROOT / name).read_text().splitlines() if "ENGINE_MEMORY_MB" in line)


def test_bytes_of_what_shares_memory_are_counted_once() -> None:
    whole = torch.zeros(100)
    assert tensor_bytes({"a": whole, "b": [whole[:50], (whole.view(10, 10),)], "c": torch.zeros(5)}) == 420


def test_a_cache_is_bounded_by_tokens_not_by_a_whole_context_for_everybody(wide: Path, settings: Any) -> None:
    needs = footprint(wide)
    settings.ENGINE_MEMORY_MB = 64
    engine = load(wide, stage="sft", needs=needs)
    engine.service.close()
    assert engine.cache_tokens == 64 * MEGABYTE // 8 // needs.token
    assert engine.cache_tokens <= 2 * 8192  # two rows of the whole context, not 64
    assert engine.service._engine.max_batch == 64  # and still many are answered at once
    assert engine.bytes < 64 * MEGABYTE


def test_the_cache_takes_an_eighth_of_the_budget_unless_the_least_is_more(directory: Path) -> None:
    needs = footprint(directory)
    assert needs.token == 2 * 2 * 64 * 4  # keys and values, layers, head width, float32
    row = 64 * needs.token
    assert needs.least == needs.weights + row
    assert needs.cache_tokens(10**9) == 64 * 64  # never more than all rows can use
    assert needs.cache_tokens(8 * 10 * row) == 10 * 64
    assert needs.cache_tokens(needs.least) == 64


def test_a_model_that_cannot_fit_says_so_and_which_setting_to_raise(
    engines: Engines, checkpoint: Callable[[], Checkpoint], settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = checkpoint(), checkpoint()
    with engines.borrow(other):
        pass
    least = footprint(one.path).least / MEGABYTE
    settings.ENGINE_MEMORY_MB = 0.5 * least
    enough = f"Set ENGINE_MEMORY_MB to {math.ceil(1.05 * least)} or more"
    with pytest.raises(DoesNotFit, match=rf"it needs 1 MB to chat, .* {enough}"):
        load(one.path, stage="sft")
    with pytest.raises(ValueError, match=f"^{one.name} cannot be loaded; choose another model.$"), engines.borrow(one):
        pass
    assert f"{enough} and start the site again." in caplog.text
    assert engines.loaded() == [other.pk]  # nobody had to go for it
    one.refresh_from_db()
    assert enough in one.load_problem  # which staff read
    settings.ENGINE_MEMORY_MB = 600
    with engines.borrow(one):
        one.refresh_from_db()
        assert one.load_problem == ""


def test_a_question_fits_what_the_cache_holds(wide: Path, settings: Any) -> None:
    settings.ENGINE_MEMORY_MB = footprint(wide).least / MEGABYTE + 0.01
    engine = load(wide, stage="sft")
    assert engine.cache_tokens < 600
    question = [{"role": "user", "content": "9" * 700}]
    with pytest.raises(ValueError, match="too long"):
        engine.submit(question, {"max_new_tokens": 8})
    request = engine.submit([{"role": "user", "content": "9" * 300}], {"max_new_tokens": 8})
    assert len(list(request.events())) <= 8
    engine.service.close()


@pytest.mark.parametrize(
    ("stored", "device", "is_fast", "expected"),
    [
        ("bfloat16", "cpu", True, "bfloat16"),
        ("bfloat16", "cpu", False, "float32"),
        ("float16", "cpu", True, "float32"),
        ("float32", "cpu", True, "float32"),
        ("float64", "cuda", True, "float32"),
        ("float16", "cuda", False, "float16"),
        ("bfloat16", "cuda", False, "bfloat16"),
    ],
)
def test_a_model_is_held_as_it_is_stored_where_the_machine_is_fast_in_that(
    stored: str, device: str, is_fast: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_is_fast_in_bfloat16", lambda width: is_fast)
    assert machine.held_dtype(getattr(torch, stored), 576, torch.device(device)) == getattr(torch, expected)


def test_the_device_is_what_the_setting_says(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for setting, expected in (("auto", "cuda"), ("cpu", "cpu"), ("cuda", "cuda")):
        settings.ENGINE_DEVICE = setting
        assert engine_device().type == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"no GPU that PyTorch can use. Set it to auto"):
        engine_device()
    settings.ENGINE_DEVICE = "auto"
    assert engine_device().type == "cpu"


def test_a_wide_model_takes_every_core_and_a_narrow_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines_module, "available_cores", lambda: 8)
    assert [chat_threads(width) for width in (64, 192, 576, 2048)] == [1, 1, 8, 8]


# -- prompts ---------------------------------------------------------------------------------------

TALK = [
    {"role": "user", "content": "What does a fox eat?"},
    {"role": "assistant", "content": "Mice."},
    {"role": "user", "content": "And berries?"},
]


def test_before_instruction_tuning_the_prompt_is_the_bare_text(tokenizer: Tokenizer) -> None:
    ids = render_prompt(tokenizer, TALK[:1], stage="pretrain", room=64)
    assert ids == [tokenizer.document_end_id, *tokenizer.encode("What does a fox eat?")]


def test_from_sft_on_it_is_the_chat_template(tokenizer: Tokenizer) -> None:
    ids = render_prompt(tokenizer, TALK, stage="sft", room=200)
    assert ids == tokenizer.render_chat(TALK, add_generation_prompt=True)[0]


def test_a_long_conversation_loses_its_oldest_turns_whole(tokenizer: Tokenizer) -> None:
    last_only = tokenizer.render_chat(TALK[2:], add_generation_prompt=True)[0]
    ids = render_prompt(tokenizer, TALK, stage="sft", room=len(last_only) + 3)
    assert ids == last_only


def test_a_continued_answer_stays_open(tokenizer: Tokenizer) -> None:
    ids = render_prompt(tokenizer, TALK[:2], stage="sft", room=200)
    question = tokenizer.render_chat(TALK[:1], add_generation_prompt=True)[0]
    assert ids == [*question, *tokenizer.encode("Mice.")]


def test_an_answer_that_fills_the_context_is_kept_and_not_continued(
    engines: Engines, checkpoint: Callable[[], Checkpoint]
) -> None:
    written = "9" * 60
    generation = Generation.objects.create(
        checkpoint=checkpoint(),
        messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": written}],
        sampling=services.clean_sampling({"max_new_tokens": 20}),
    )
    writing.write_answer(generation_id=str(generation.pk))
    generation.refresh_from_db()
    assert generation.text == written
    assert generation.error == "This answer fills all the 64 tokens the model can take in."


# -- the whole way ---------------------------------------------------------------------------------


def ask(checkpoint: Checkpoint, **sampling: Any) -> Generation:
    return Generation.objects.create(
        checkpoint=checkpoint, messages=TALK[:1], sampling=services.clean_sampling({"seed": 7, **sampling})
    )


def answer_alone(engine: LoadedEngine, generation: Generation) -> str:
    """What the engine says when driven by hand."""
    request = engine.submit(generation.messages, generation.sampling)
    return engine.tokenizer.decode([token for token, _ in request.events()])


def test_the_stored_answer_is_what_the_engine_sampled(engines: Engines, checkpoint: Callable[[], Checkpoint]) -> None:
    one = checkpoint()
    generation = ask(one, max_new_tokens=20)
    writing.write_answer(generation_id=str(generation.pk))
    generation.refresh_from_db()
    assert generation.state == Generation.State.DONE
    assert generation.error == ""
    with engines.borrow(one) as engine:
        assert generation.text == answer_alone(engine, generation).translate(writing.UNSTORABLE)


def test_the_same_seed_repeats_and_another_differs(engines: Engines, checkpoint: Callable[[], Checkpoint]) -> None:
    one = checkpoint()
    texts = []
    for seed in (1, 1, 2):
        generation = ask(one, max_new_tokens=20, seed=seed)
        writing.write_answer(generation_id=str(generation.pk))
        generation.refresh_from_db()
        texts.append(generation.text)
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.django_db(transaction=True)
def test_many_answers_at_once_share_the_engine_and_do_not_mix(
    engines: Engines, checkpoint: Callable[[], Checkpoint]
) -> None:
    one = checkpoint()
    generations = [ask(one, max_new_tokens=24, seed=seed) for seed in range(8)]
    threads = [database_thread(writing.write_answer, generation_id=str(generation.pk)) for generation in generations]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    with engines.borrow(one) as engine:
        for generation in generations:
            generation.refresh_from_db()
            assert generation.state == Generation.State.DONE
            assert generation.text == answer_alone(engine, generation).translate(writing.UNSTORABLE)
    assert engines.loaded() == [one.pk]


def test_damaged_weights_fail_the_answer_with_a_reason_for_visitors(
    engines: Engines, checkpoint: Callable[[], Checkpoint], caplog: pytest.LogCaptureFixture
) -> None:
    one = checkpoint()
    weights = one.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    generation = ask(one)
    writing.write_answer(generation_id=str(generation.pk))
    generation.refresh_from_db()
    assert generation.state == Generation.State.FAILED
    assert generation.error == f"{one.name} cannot be loaded; choose another model."
    assert "is damaged" in caplog.text


def test_a_checkpoint_that_cannot_be_loaded_does_not_stop_the_worker(
    engines: Engines, checkpoint: Callable[[], Checkpoint], caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = checkpoint(), checkpoint()
    (bad.path / "config.json").unlink()
    Checkpoint.objects.filter(pk=good.pk).update(stage="ppo")
    writing.prepare()
    assert engines.loaded() == [good.pk]
    assert "cannot be loaded" in caplog.text


# -- importing with the trainer's own check -------------------------------------------------------


def test_the_command_imports_what_the_trainer_can_load(directory: Path) -> None:
    call_command("import_checkpoint", str(directory), "--name", "from elsewhere")
    assert Checkpoint.objects.get().name == "from elsewhere"


def test_the_command_refuses_what_the_trainer_cannot_load(directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    (copy / "stage.json").unlink()
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "hidden_size": 128, "num_attention_heads": 2}))
    with pytest.raises(CommandError, match="shape"):
        call_command("import_checkpoint", str(copy))
    assert not Checkpoint.objects.exists()


def test_a_fresh_site_begins_with_a_real_directory_and_answers(
    engines: Engines, directory: Path, tmp_path: Path, settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.DATA_DIR, settings.CHECKPOINT_DIR = tmp_path, tmp_path / "checkpoints"
    source = tmp_path / "SmolModel"
    shutil.copytree(directory, source)
    (source / "stage.json").unlink()
    call_command("first_start", "--no-curriculum", "--start", str(source))
    said = capsys.readouterr().out.splitlines()
    assert (said[0], said[-1]) == (
        "SmolModel is moving in.",
        "SmolModel is here, 0.1 million parameters. Chat with it.",
    )
    [one] = Checkpoint.objects.all()
    assert (one.stage, one.preset, one.source) == ("sft", "", "SmolModel")
    generation = ask(one, max_new_tokens=8)
    writing.write_answer(generation_id=str(generation.pk))
    generation.refresh_from_db()
    assert generation.state == Generation.State.DONE


@pytest.mark.parametrize("damage", ["config.json", "tokenizer.json", "model.safetensors"])
def test_of_a_damaged_directory_nothing_is_listed_and_nothing_left(
    damage: str, directory: Path, tmp_path: Path, settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.DATA_DIR, settings.CHECKPOINT_DIR = tmp_path, tmp_path / "checkpoints"
    source = tmp_path / "SmolModel"
    shutil.copytree(directory, source)
    (source / "stage.json").unlink()
    (source / damage).write_bytes((source / damage).read_bytes()[:-9])
    call_command("first_start", "--start", str(source))
    assert "It could not be brought in: " in capsys.readouterr().out
    assert not Checkpoint.objects.exists()
    assert not list((tmp_path / "checkpoints").glob("*"))


# -- the web process -------------------------------------------------------------------------------


def test_the_web_process_never_imports_torch() -> None:
    """Everything the web server imports, in a process of its own."""
    code = (
        "import sys, webapp.asgi, webapp.urls, webapp.answers.tasks\n"
        "from django.urls import get_resolver\n"
        "get_resolver().url_patterns\n"
        "sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env=_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr


def _environment() -> dict[str, str]:
    return {**os.environ, "DJANGO_SETTINGS_MODULE": "webapp.settings"}


def test_sampling_settings_are_the_engines() -> None:
    assert Sampling(**services.clean_sampling({"seed": 3})) == Sampling(seed=3)
