"""The engine cache with real, tiny, random models; and an answer through all of it."""

from __future__ import annotations

import json
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

from tests.threads import database_thread
from trainer.model.checkpoint import save_checkpoint
from trainer.model.decoder import LanguageModel
from trainer.model.engine import Sampling
from trainer.model.tokenizer import Tokenizer
from trainer.presets import shape
from webapp.answers import services, writing
from webapp.answers.engines import Engines, LoadedEngine, NotWaitedFor, load, memory_bytes, render_prompt
from webapp.answers.models import Generation
from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.services import register_checkpoint

pytestmark = pytest.mark.django_db

MEGABYTE = 2**20


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


def test_the_cache_takes_a_fifth_of_the_budget_and_no_more(directory: Path, settings: Any) -> None:
    engine = load(directory, stage="sft")
    weights, row = memory_bytes(engine.config)
    assert engine.bytes == weights + 64 * row
    engine.service.close()
    settings.ENGINE_MEMORY_MB = 5 * 10.5 * row / MEGABYTE
    assert engine_bytes(directory) == weights + 10 * row
    settings.ENGINE_MEMORY_MB = (weights + 2.5 * row) / MEGABYTE  # beside its weights there is less than a fifth
    assert engine_bytes(directory) == weights + 2 * row
    settings.ENGINE_MEMORY_MB = 0.5 * weights / MEGABYTE
    assert engine_bytes(directory) == weights + row


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
