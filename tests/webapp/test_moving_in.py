"""`up --start`: a model from elsewhere moves into a fresh site, and the walk begins where its makers ended."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from tests.conftest import write_checkpoint_files
from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.origin import site_origin
from webapp.stages.context import ask_all, build_rail
from webapp.stages.queries import comparison_columns, home_page
from webapp.stages.questions import EVERYDAY
from webapp.training import curriculum, moving_in
from webapp.training.models import Curriculum, TrainingRun

from . import fake_trainer

pytestmark = pytest.mark.django_db

Import = Callable[..., Checkpoint]


@pytest.fixture(autouse=True)
def _own_site(settings: Any, tmp_path: Path) -> None:
    settings.DATA_DIR = tmp_path
    settings.CHECKPOINT_DIR, settings.RUN_DIR = tmp_path / "checkpoints", tmp_path / "runs"
    settings.CURRICULUM_PRESET = "smoke"
    settings.TRAINER_COMMAND = [sys.executable, fake_trainer.__file__, "good"]
    settings.LOCAL = False


class Makers:
    """Whoever has the model: hands it over, or fails with what it is told to."""

    def __init__(self, make_checkpoint: Any) -> None:
        self.make_checkpoint = make_checkpoint
        self.stage = "sft"
        self.problem: Exception | None = None
        self.asked: list[str] = []
        self.seen: list[tuple[str, int, int]] = []

    def __call__(self, source: str, progress: Callable[..., None]) -> Checkpoint:
        self.asked.append(source)
        for done in (0, 40, 90):
            progress("Downloading", done, 90)
            row = Curriculum.objects.get()
            self.seen.append((row.start_text, row.start_done, row.start_total))
        if self.problem:
            raise self.problem
        return self.make_checkpoint(self.stage, name="SmolModel", preset="")  # type: ignore[no-any-return]


@pytest.fixture
def makers(make_checkpoint: Any, monkeypatch: pytest.MonkeyPatch) -> Makers:
    handed = Makers(make_checkpoint)
    monkeypatch.setattr(moving_in, "_import", handed)
    monkeypatch.setattr(moving_in, "WRITTEN_EVERY_S", 0.0)
    return handed


@pytest.fixture
def start(enqueued: Any, django_capture_on_commit_callbacks: Any) -> Callable[..., list[str]]:
    """`start("hub:a/b")` is a start of the site; returns what the terminal was told."""

    def begin(source: str = "", **flags: bool) -> list[str]:
        said: list[str] = []
        with django_capture_on_commit_callbacks(execute=True):
            curriculum.prepare_first_start(
                **{"demo": False, "curriculum": True, **flags}, start=source, say=said.append
            )
        return said

    return begin


def read(client: Client, path: str) -> str:
    return " ".join(client.get(path).content.decode().split())


# -- the import ------------------------------------------------------------------------------------


def test_the_model_comes_instead_of_random_weights_and_of_training(makers: Makers, start: Any) -> None:
    said = start("hub:makers/SmolModel")
    assert makers.asked == ["hub:makers/SmolModel"]
    assert [(one.stage, one.name) for one in Checkpoint.objects.all()] == [("sft", "SmolModel")]
    assert not TrainingRun.objects.exists()
    assert said[0] == "SmolModel is moving in."
    assert said[-1].startswith("SmolModel is here")
    step = curriculum.next_step()
    assert (step.state, step.stage) == ("votes", "reward")


def test_its_progress_is_kept_for_the_page_and_said_in_the_terminal(makers: Makers, start: Any) -> None:
    said = start("hub:makers/SmolModel")
    assert makers.seen == [("Downloading", 0, 90), ("Downloading", 40, 90), ("Downloading", 90, 90)]
    assert "Downloading: 90\xa0bytes of 90\xa0bytes, 100 %" in said


def test_the_home_page_shows_how_far_it_is(visitor_client: Client) -> None:
    Curriculum.objects.create(
        pk=1, start_source="hub:makers/SmolModel", start_state="moving", start_text="Downloading",
        start_done=30 * 2**20, start_total=90 * 2**20,
    )  # fmt: skip
    page = read(visitor_client, reverse("stages:home"))
    assert "SmolModel is moving in" in page
    assert "30.0\xa0MB of 90.0\xa0MB, 33 %".replace("\xa0", " ") in page.replace("\xa0", " ")
    assert "Still to come" not in page
    assert "random weights" not in page.lower()
    assert home_page(0).is_changing


def test_a_failure_is_one_sentence_and_the_next_start_tries_again(
    makers: Makers, start: Any, visitor_client: Client, staff_client: Client, settings: Any
) -> None:
    makers.problem = ValueError("There is no network: connect, then start again")
    said = start("hub:makers/SmolModel")
    sentence = "There is no network: connect, then start again. The next start tries again."
    assert said[-1] == f"It could not be brought in: {sentence}"
    assert not Checkpoint.objects.exists()
    step = curriculum.next_step()
    assert (step.state, step.is_action) == ("stranded", False)
    curriculum.advance()
    assert not TrainingRun.objects.exists()
    home = reverse("stages:home")
    assert sentence in read(staff_client, home)
    assert "no network" not in read(visitor_client, home)  # a reason may hold paths of this machine
    settings.LOCAL = True  # on a laptop nobody is logged in yet
    assert sentence in read(visitor_client, home)

    makers.problem = None
    start()  # whatever it is told, or not
    assert site_origin() is not None
    assert makers.asked == ["hub:makers/SmolModel"] * 2
    assert curriculum.next_step().state == "votes"


def test_what_nobody_foresaw_is_a_sentence_too(makers: Makers, start: Any, caplog: pytest.LogCaptureFixture) -> None:
    makers.problem = RuntimeError("a tensor of the wrong kind")
    assert "It broke (RuntimeError)" in start("hub:makers/SmolModel")[-1]
    assert "a tensor of the wrong kind" in caplog.text
    makers.problem = OSError(28, "No space left on device", "/somewhere")
    assert "No space left on device: /somewhere." in start()[-1]


def test_a_failed_source_can_be_exchanged_for_another(makers: Makers, start: Any) -> None:
    makers.problem = ValueError("Nobody there.")
    start("hub:makers/SmolModle")
    makers.problem = None
    start("hub:makers/SmolModel")
    assert makers.asked == ["hub:makers/SmolModle", "hub:makers/SmolModel"]
    assert Curriculum.objects.get().start_source == "hub:makers/SmolModel"


def test_a_start_killed_after_the_import_imports_nothing_twice(makers: Makers, start: Any) -> None:
    start("hub:makers/SmolModel")
    Curriculum.objects.update(start_state="moving")
    start("hub:makers/SmolModel")
    assert len(makers.asked) == 1
    assert Checkpoint.objects.count() == 1
    assert Curriculum.objects.get().start_state == "here"


def test_later_starts_import_nothing_and_write_no_random_weights(makers: Makers, start: Any) -> None:
    start("hub:makers/SmolModel")
    assert start() == []
    assert start("hub:makers/SmolModel") == []
    assert len(makers.asked) == 1
    assert Checkpoint.objects.count() == 1
    call_command("first_start", "--check", "--start", "hub:makers/SmolModel")


def test_it_says_that_the_same_model_is_here(makers: Makers, start: Any, capsys: pytest.CaptureFixture[str]) -> None:
    start("hub:makers/SmolModel")
    call_command("first_start", "--check", "--start", "hub:makers/SmolModel")
    assert capsys.readouterr().out == "SmolModel is here already; --start has nothing to do.\n"


@pytest.mark.parametrize("before", ["own", "another"])
def test_a_site_with_models_refuses_another_start(
    before: str, makers: Makers, start: Any, make_checkpoint: Any, settings: Any
) -> None:
    if before == "own":
        make_checkpoint("init")
    else:
        start("hub:makers/Another")
    for arguments in (["--check"], []):
        with pytest.raises(CommandError, match="holds models already, and --start SmolModel is for an empty site"):
            call_command("first_start", *arguments, "--start", "hub:makers/SmolModel")
    assert Checkpoint.objects.count() == 1
    assert curriculum.next_step().state != "stranded"


def test_a_path_is_the_same_however_it_is_typed(
    makers: Makers, start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint_files(tmp_path / "model", stage="sft")
    monkeypatch.chdir(tmp_path)
    start("model")
    assert start(str(tmp_path / "model")) == []
    assert makers.asked == [str(tmp_path / "model")]


# -- what its makers did ---------------------------------------------------------------------------


def test_a_chat_model_goes_on_with_votes_and_nothing_asks_for_what_its_makers_did(
    make_checkpoint: Any, visitor_client: Client
) -> None:
    make_checkpoint("sft", name="SmolModel", preset="")
    rail = build_rail()
    assert [(item.slug, item.state) for item in rail] == [
        ("init", "elsewhere"),
        ("pretrain", "elsewhere"),
        ("sft", "done"),
        ("reward", "waiting"),
        ("ppo", "waiting"),
        ("grpo", "waiting"),
    ]
    assert ask_all(rail) == "Ask all three"
    assert [column.item.slug for column in comparison_columns(None)] == ["sft", "ppo", "grpo"]
    page = read(visitor_client, reverse("stages:home"))
    assert page.count("Done elsewhere, by the makers of SmolModel.") == 2
    assert "Ask all three" in page
    assert "Ask all five" not in page
    assert home_page(0).questions == EVERYDAY


def test_a_base_model_goes_on_with_instructions_when_somebody_says_so(make_checkpoint: Any, enqueued: Any) -> None:
    make_checkpoint("pretrain", name="SmolBase", preset="")
    Curriculum.objects.create(pk=1)  # an ordinary start, which trains a model of its own up to here by itself
    step = curriculum.next_step()
    assert (step.state, step.stage, step.is_action) == ("ready", "sft", True)
    curriculum.advance()
    assert not TrainingRun.objects.exists()


def test_what_is_trained_from_it_keeps_its_origin(make_checkpoint: Any) -> None:
    root = make_checkpoint("pretrain", name="SmolBase", preset="")
    tuned = make_checkpoint("sft", parent=root)
    make_checkpoint("ppo", parent=tuned)
    Checkpoint.objects.filter(pk=root.pk).update(archived=True)
    assert site_origin() == root
    assert build_rail()[0].state == "elsewhere"


def test_a_site_of_its_own_has_no_origin_also_without_its_first_checkpoint(make_checkpoint: Any) -> None:
    parent = make_checkpoint("init")
    make_checkpoint("pretrain", parent=parent)
    assert site_origin() is None
    Checkpoint.objects.filter(pk=parent.pk).update(archived=True)
    assert site_origin() is None
    assert curriculum.next_step().state == "starting"
