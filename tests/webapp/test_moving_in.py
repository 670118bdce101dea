"""`up --start`: a model from elsewhere moves into a fresh site, and the walk begins where its makers ended."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from tests.conftest import write_checkpoint_files
from tests.webapp.test_curriculum import answer_pairs
from trainer.presets import PRESETS, RECIPES
from trainer.world import plain
from trainer.world.everyday import ANSWERED, bounded
from webapp.answers.models import Generation
from webapp.arena.models import Prompt
from webapp.arena.publishing import seed_prompts
from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.origin import site_origin
from webapp.checkpoints.services import import_checkpoint
from webapp.ops.management.commands import up
from webapp.stages.context import ask_all, build_rail
from webapp.stages.masks import masked
from webapp.stages.models import SiteAnswer
from webapp.stages.queries import comparison_columns, home_page
from webapp.stages.questions import EVERYDAY
from webapp.stages.stage_report import an_exchange
from webapp.training import curriculum, moving_in
from webapp.training.forms import RunForm
from webapp.training.models import Curriculum, TrainingRun
from webapp.training.tasks import continue_simulated_votes, execute_run

from . import fake_trainer

pytestmark = pytest.mark.django_db

Import = Callable[..., Checkpoint]


@pytest.fixture(autouse=True)
def _own_site(settings: Any, tmp_path: Path) -> None:
    settings.DATA_DIR = tmp_path
    settings.CHECKPOINT_DIR, settings.RUN_DIR = tmp_path / "checkpoints", tmp_path / "runs"
    settings.CURRICULUM_PRESET = "smoke"
    settings.TRAINER_COMMAND = [sys.executable, fake_trainer.__file__, "good"]
    settings.ALONE = False


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
    # Nobody knows yet which stages it has behind it.
    assert '<nav id="rail" class="rail" aria-label="Stages" hidden>' in page
    assert "to come" not in page
    assert "Ask all stages" in page


def test_a_failure_is_one_sentence_and_the_next_start_tries_again(
    makers: Makers, start: Any, visitor_client: Client, staff_client: Client, settings: Any
) -> None:
    makers.problem = ValueError("There is no network: connect, then start again")
    said = start("hub:makers/SmolModel")
    sentence = "There is no network: connect, then start again. " + moving_in.WAY_ON
    assert said[-1] == f"It could not be brought in: {sentence}"
    assert not Checkpoint.objects.exists()
    step = curriculum.next_step()
    assert (step.state, step.is_action) == ("stranded", False)
    curriculum.advance()
    assert not TrainingRun.objects.exists()
    home = reverse("stages:home")
    assert sentence in read(staff_client, home)
    assert "no network" not in read(visitor_client, home)  # a reason may hold paths of this machine
    settings.ALONE = True  # on a laptop nobody is logged in yet
    assert sentence in read(visitor_client, home)

    makers.problem = None
    start()  # whatever it is told, or not
    assert site_origin() is not None
    assert makers.asked == ["hub:makers/SmolModel"] * 2
    assert curriculum.next_step().state == "votes"


def test_who_gives_up_on_a_model_gets_random_weights(
    makers: Makers, start: Any, make_checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    makers.problem = ValueError("There is no network")
    start("hub:makers/SmolModel")
    make_checkpoint("ppo", name="somewhere", archived=True)  # a place-holder for votes from another site
    monkeypatch.chdir(tmp_path)
    (tmp_path / "random").mkdir()  # is no model
    assert up.whole_path("random") == "random"
    start("random")
    assert len(makers.asked) == 1
    assert curriculum.next_step().state == "training"
    assert [one.stage for one in Checkpoint.objects.listed()] == ["init"]
    assert moving_in.check_start("random") == "Models are here already; --start has nothing to do."
    assert build_rail()[0].state_text == "ready"


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device. The next start tries again;"),
        (ValueError("It has no \ud800.safetensors: copy it."), "It has no .safetensors: copy it. The next"),
    ],
)
def test_a_reason_is_a_sentence_that_the_database_can_hold(
    makers: Makers, start: Any, problem: Exception, sentence: str
) -> None:
    makers.problem = problem
    start("hub:makers/SmolModel")
    assert Curriculum.objects.get().start_text.startswith(sentence)


def test_a_start_by_a_name_that_is_no_text_is_refused(start: Any) -> None:
    with pytest.raises(CommandError, match="Give the file or directory another name"):
        call_command("first_start", "--start", "fox\udcff.gguf")


def test_what_nobody_foresaw_is_a_sentence_too(makers: Makers, start: Any, caplog: pytest.LogCaptureFixture) -> None:
    makers.problem = RuntimeError("a tensor of the wrong kind")
    assert "It broke (RuntimeError)" in start("hub:makers/SmolModel")[-1]
    assert "a tensor of the wrong kind" in caplog.text
    makers.problem = OSError(28, "No space left on device", "/somewhere")
    assert "No space left on device (/somewhere)." in start()[-1]


def test_a_model_that_another_site_raised_moves_in_too(makers: Makers, start: Any, make_checkpoint: Any) -> None:
    """It says which preset made it, and its parents are not here."""
    makers.make_checkpoint = lambda stage, **fields: make_checkpoint(stage, **{**fields, "preset": "smoke"})
    makers.stage = "ppo"
    start("/elsewhere/ppo-0007")
    origin = site_origin()
    assert origin is not None
    assert origin.source == "ppo-0007"
    step = curriculum.next_step()
    assert (step.state, step.stage, step.is_action) == ("ready", "grpo", True)


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


# -- the walk --------------------------------------------------------------------------------------


def test_the_demo_walks_from_the_votes_on_by_the_recipe_for_its_size(
    makers: Makers, start: Any, enqueued: Any, django_capture_on_commit_callbacks: Any
) -> None:
    start("hub:makers/SmolModel", demo=True)
    tasks = {"execute_run": execute_run, "continue_simulated_votes": continue_simulated_votes}
    while enqueued.tasks:
        task = enqueued.tasks.pop(0)
        if function := tasks.get(task.name.rpartition(".")[2]):
            with django_capture_on_commit_callbacks(execute=True):
                function(*task.args)
            answer_pairs()
    assert curriculum.next_step().state == "done"
    runs = TrainingRun.objects.with_links().order_by("id")
    assert [(run.stage, run.preset, run.state) for run in runs] == [
        (stage, "adapted-135m", "done") for stage in ("reward", "ppo", "grpo")
    ]
    assert [run.config["adapter_rank"] for run in runs] == [16, 16, 16]
    assert {one.stage for one in Checkpoint.objects.all()} == {"sft", "reward", "ppo", "grpo"}
    assert set(Prompt.objects.values_list("text", flat=True)) == set(bounded([prompt for prompt, _ in ANSWERED]))
    row = Curriculum.objects.get()
    assert (row.taste, row.error) == ("shorter", "")


def test_the_prompts_of_a_site_of_its_own_are_of_its_own_world(make_checkpoint: Any) -> None:
    make_checkpoint("sft", parent=make_checkpoint("init"))
    seed_prompts()
    assert not Prompt.objects.filter(text__in=bounded([prompt for prompt, _ in ANSWERED])).exists()


def test_the_questions_at_home_are_those_sampled_while_it_trains() -> None:
    assert list(EVERYDAY[:4]) == plain().sample_prompts


def test_staff_are_offered_recipes_for_a_model_from_elsewhere_and_sizes_for_their_own(make_checkpoint: Any) -> None:
    def offered(stage: str = "reward") -> tuple[str, list[str]]:
        field = RunForm(stage=stage).fields["preset"]
        return str(field.initial), [name for name, _ in field.choices]  # type: ignore[attr-defined]

    imported = make_checkpoint("sft", preset="", parameters=134_515_008)
    assert offered() == ("adapted-135m", list(RECIPES))
    assert offered("init") == ("smoke", list(PRESETS))
    Checkpoint.objects.filter(pk=imported.pk).update(parameters=3_000_000_000)
    assert offered()[0] == "adapted-3b"
    imported.delete()
    make_checkpoint("sft", preset="smoke", parent=make_checkpoint("init"))
    assert offered() == ("smoke", list(PRESETS))
    make_checkpoint("sft", preset="", parent=None)
    assert offered()[1] == [*RECIPES, *PRESETS]


def test_an_import_is_voted_on_answers_as_long_as_it_will_practise(tmp_path: Path) -> None:
    write_checkpoint_files(tmp_path / "model", stage="sft")
    (tmp_path / "model" / "stage.json").unlink()
    (tmp_path / "model" / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    one = import_checkpoint(directory=tmp_path / "model")
    assert one.answer_tokens == RECIPES["adapted-135m"].answer_tokens == 80
    assert json.loads((one.path / "stage.json").read_text())["answer_tokens"] == 80


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


# -- the stage pages -------------------------------------------------------------------------------


def test_the_page_of_a_stage_done_elsewhere_says_whose_work_it_is(make_checkpoint: Any, visitor_client: Client) -> None:
    origin = make_checkpoint("sft", name="SmolModel", preset="")
    (origin.path / "config.json").write_text(json.dumps({"vocab_size": 49_152}))
    for stage in ("init", "pretrain"):
        page = read(visitor_client, reverse("stages:stage", args=[stage]))
        assert "Done elsewhere, by the makers of SmolModel." in page
        assert "None yet." not in page
        assert "No run" not in page
    assert "ln(49,152) = 10.80" in read(visitor_client, reverse("stages:stage", args=["init"]))
    page = read(visitor_client, reverse("stages:stage", args=["sft"]))
    assert "None here: it was trained elsewhere, by its makers." in page
    assert "<td>elsewhere</td>" in page
    page = read(visitor_client, reverse("stages:stage", args=["grpo"]))
    assert "Done elsewhere" not in page
    assert "numbers up to 20" not in page  # that is said of the shipped world's problems


def test_the_loss_mask_is_shown_in_the_models_own_template(make_checkpoint: Any) -> None:
    origin = make_checkpoint("sft", name="SmolModel", preset="")
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %}{{ m.content }}{{ eos_token }}\n{% endif %}{% endfor %}"
    )
    vocabulary = {"[INST]": 0, "[/INST]": 1, "</s>": 2, "a": 3}
    added = [{"id": 2, "content": "</s>", "special": True}]
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    (origin.path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": added, "model": model}))
    config = {"chat_template": template, "eos_token": "</s>"}
    (origin.path / "tokenizer_config.json").write_text(json.dumps(config))
    generation = Generation.objects.create(checkpoint=origin, messages=[], state="done", text="Mice.")
    generation.messages = [{"role": "user", "content": "What do foxes eat?"}]
    generation.save()
    SiteAnswer.objects.create(checkpoint=origin, prompt="What do foxes eat?", generation=generation)
    exchange = an_exchange()
    assert exchange is not None
    shown = masked([exchange], origin)
    assert shown is not None
    assert [(part.text, part.counts) for part in shown.parts] == [
        ("[INST] What do foxes eat? [/INST]", False),
        ("Mice.</s>", True),
        ("\n", False),
    ]


def test_a_template_that_fails_costs_a_figure_and_not_the_page(make_checkpoint: Any, visitor_client: Client) -> None:
    origin = make_checkpoint("sft", name="SmolModel", preset="")
    (origin.path / "tokenizer_config.json").write_text('{"chat_template": "{{ raise_exception(1) }}"}')
    question = [{"role": "user", "content": "Why?"}]
    generation = Generation.objects.create(checkpoint=origin, messages=question, state="done", text="So.")
    SiteAnswer.objects.create(checkpoint=origin, prompt="Why?", generation=generation)
    exchange = an_exchange()
    assert exchange is not None
    assert masked([exchange], origin) is None
    assert visitor_client.get(reverse("stages:stage", args=["sft"])).status_code == 200


def test_why_a_model_cannot_be_chatted_with_is_for_staff(
    make_checkpoint: Any, visitor_client: Client, staff_client: Client
) -> None:
    problem = "it needs 2,000 MB to chat. Set ENGINE_MEMORY_MB to 2100 or more."
    origin = make_checkpoint("sft", name="SmolModel", preset="", load_problem=problem)
    refused = "SmolModel cannot be loaded; choose another model."
    generation = Generation.objects.create(checkpoint=origin, messages=[], state="failed", error=refused)
    SiteAnswer.objects.create(checkpoint=origin, prompt=EVERYDAY[0], generation=generation)
    for path in (reverse("stages:home"), reverse("stages:stage", args=["sft"])):
        assert problem in read(staff_client, path)
        assert "ENGINE_MEMORY_MB" not in read(visitor_client, path)
    assert refused in read(visitor_client, reverse("stages:home"))
