"""Every stage in a row, with simulated voters where people are missing, and the report card.

Run it: ``python -m trainer all --preset tiny --out DIR``, or ``… all --from MODEL_DIR --out DIR`` to go on from a model
of somebody else's making. A finished stage is not run again, so the same command goes on after an interruption.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from trainer.asked import asked_messages
from trainer.config import GRPO, INIT, PPO, PRETRAIN, REWARD, SFT, STAGES, check_context
from trainer.data.corpus import Corpus
from trainer.data.directory import from_directory
from trainer.data.preferences import Comparison, read_comparisons, write_comparisons
from trainer.evaluation import scope
from trainer.evaluation.asking import ask
from trainer.evaluation.card import evaluate_checkpoint
from trainer.evaluation.text import xz_bits_per_byte
from trainer.model.checkpoint import describe, load_to_answer, read_shape, write_json
from trainer.model.engine import Engine
from trainer.presets import answer_tokens_of, check_answer_tokens, get_preset
from trainer.reports import ProgressBar
from trainer.run import RunSpec, check_corpus, check_directory, execute, fit_corpus
from trainer.runtime import machine
from trainer.runtime.seeds import derive_seed, random_generator
from trainer.stages.reward import split_by_prompt
from trainer.tasks.visitor import read_visitors
from trainer.world import PLAIN, corpus_for
from trainer.world.tastes import SimulatedVoter, Taste, get_taste


def run_all(
    *,
    preset: str,
    out_dir: Path,
    start: Path | None = None,
    seed: int = 0,
    data: Path | None = None,
    tastes: Sequence[str] | None = None,
    threads: int = 0,
    settings: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Walk all stages into `out_dir`, write report.json there and return its contents.

    With `start`, a checkpoint of ours or a model from elsewhere, the stages that come after its own.
    The first taste's branch goes through ppo and grpo; each further taste adds its own reward model
    and ppo. With recorded comparisons in `data` and no taste asked for, those are the votes.
    `settings` are "stage.name" → value changes of the preset. Raises ValueError for settings that cannot be and for
    data with a part missing, before anything is trained, and for an `out_dir` that holds other runs than these.
    """
    check_directory(out_dir)
    if start is None:
        get_preset(preset).check_makes_models()
    begun = str(describe(start)["stage"]) if start else ""
    for taste_name in tastes or ():
        get_taste(taste_name)
    changes = _by_stage(settings or {})
    configs = _checked_configs(preset, changes, start)
    corpus = from_directory(data) if data else corpus_for(preset)
    recorded = bool(corpus.comparisons) and not tastes
    branches = ["recorded"] if recorded else list(dict.fromkeys(tastes or [get_preset(preset).taste]))
    stages = [stage for stage in stages_after(begun) if stage != GRPO or corpus.problems]
    check_corpus(corpus, stages, source=data or corpus.name)
    bar = ProgressBar("all")

    def note(text: str) -> None:
        bar.log(0, text)

    if GRPO not in stages:
        bar.log(0, f"{data} has no problems, so grpo is left out.")
    if recorded:
        split_by_prompt(corpus.comparisons, held_out=configs[REWARD].held_out, seed=seed)

    def run(stage: str, name: str, **inputs: Any) -> Path:
        spec = RunSpec(
            stage=stage, preset=preset, seed=seed, data=data, threads=threads, config=changes.get(stage, {}), **inputs
        )
        return execute(spec, out_dir / name, ProgressBar(name), lambda: False, corpus=corpus)

    first = start or run(INIT, INIT)
    limit = configs[PPO].max_new_tokens
    corpus = fit_corpus(
        corpus,
        first,
        [stage for stage in stages if stage != GRPO],
        max_new_tokens=limit,
        say=note,
    )
    if GRPO in stages and not corpus.problems:
        stages.remove(GRPO)
        bar.log(0, "Every problem is too long for this model, so grpo is left out.")
    sft, before = first, {}
    entries: list[tuple[Path, dict[str, Any]]] = [(first, {})]
    for stage in (PRETRAIN, SFT):
        if stage in stages:
            before = {"parent": sft}
            sft = run(stage, stage, parent=sft)
            entries.append((sft, before))
    answering = len(entries) - 1  # where the model stands whose answers people compare
    for number, branch in enumerate(branches):
        main = number == 0
        suffix = "" if main else f"-{branch}"
        taste = None if recorded else get_taste(branch)
        votes = out_dir / f"votes{suffix}.jsonl"
        if votes.exists():
            check_votes(votes, sft, corpus, taste)
        else:
            comparisons = (
                corpus.comparisons
                if taste is None
                else simulate_votes(
                    sft,
                    corpus,
                    taste,
                    preset=preset,
                    seed=seed,
                    max_new_tokens=limit,
                    say=note,
                )
            )
            out_dir.mkdir(parents=True, exist_ok=True)
            half_written = votes.with_suffix(".tmp")
            write_comparisons(half_written, comparisons)
            half_written.replace(votes)
        reward = run(REWARD, f"{REWARD}{suffix}", parent=sft, votes=votes)
        # Nobody is there to ask; the card shows how much the reward model is worth.
        ppo = run(PPO, f"{PPO}{suffix}", parent=sft, reward_model=reward, overrule_doubts=True)
        judged = {"reward_model": reward, "taste": taste, "baseline": sft}
        entries += [(reward, {"parent": sft, "taste": taste}), (ppo, {"parent": sft, **judged})]
        if main:
            if GRPO in stages:
                entries.append((run(GRPO, GRPO, parent=ppo, reward_model=reward), {"parent": ppo, **judged}))
            entries[answering] = (sft, {**before, "reward_model": reward})

    judgements = [
        _rounded(
            evaluate_checkpoint(
                path, corpus=corpus, seed=derive_seed(seed, "evaluate") % 2**31, max_new_tokens=limit, **how
            )
        )
        for path, how in entries
    ]
    for entry in judgements:
        if Path(entry["path"]).is_relative_to(out_dir):
            entry["path"] = str(Path(entry["path"]).relative_to(out_dir))
    card = {
        "preset": preset,
        "seed": seed,
        "machine": machine.measure(),
        "corpus": {"name": corpus.name, "sha256": corpus.sha256},
        "xz_bits_per_byte": xz_bits_per_byte(corpus.documents, corpus.held_out_documents),
        "tastes": branches,
        "scope": _scope(data, corpus),
        "checkpoints": judgements,
        "training_seconds": round(sum(entry["seconds"] or 0.0 for entry in judgements), 1),
    }
    write_json(out_dir / "report.json", card)
    say(render_card(card))
    return card


def stages_after(begun: str) -> list[str]:
    """The stages that are left for a model that has been through `begun` ("" for one that does not exist yet)."""
    if begun == REWARD:
        raise ValueError("A reward model scores text and cannot be raised. Start from the model it judges.")
    done = STAGES.index(SFT if begun in (PPO, GRPO) else begun) + 1 if begun else 0
    return list(STAGES[done:])


def check_votes(path: Path, writer: Path, corpus: Corpus, taste: Taste | None) -> None:
    """Raise ValueError unless the votes in `path` are the corpus's own, or the taste's on answers of `writer`."""
    found = read_comparisons(path)
    if taste is None:
        is_same = found == corpus.comparisons
    else:
        authors = _authors(describe(writer))
        is_same = all(
            vote.voter == _voter(taste) and vote.extra.get("checkpoints", authors) == authors for vote in found
        )
    if not is_same:
        wanted = "recorded in the data" if taste is None else f"of {_voter(taste)} on answers of {writer}"
        raise ValueError(f"{path} holds other votes than those {wanted}. Choose another --out, or delete it.")


def _voter(taste: Taste) -> str:
    return f"simulated-{taste.name}"


def _authors(info: Mapping[str, Any]) -> dict[str, Any]:
    """Whose answers a vote is on, as votes record it; `info` is the writer's stage.json."""
    return dict.fromkeys(("chosen", "rejected"), info.get("weights_sha256"))


def simulate_votes(
    writer: Path,
    corpus: Corpus,
    taste: Taste,
    *,
    preset: str,
    seed: int,
    max_new_tokens: int,
    say: Callable[[str], None] = lambda text: None,
) -> list[Comparison]:
    """As many simulated votes as the preset wants, on pairs of one checkpoint's answers.

    Every pair is one prompt answered twice at temperature 1; identical answers are not a pair.
    """
    wanted = get_preset(preset).votes
    loaded = load_to_answer(writer)
    engine = Engine(loaded.language_model, end_ids=loaded.tokenizer.end_ids)
    voter, authors = SimulatedVoter(taste, seed=seed), _authors(describe(writer))
    prompts = corpus.preference_prompts
    comparisons: list[Comparison] = []
    for attempt in range(100):  # a barely trained model seldom ends its answers
        order = random_generator(seed, "vote prompts", attempt)
        picked = [prompts[i] for i in torch.randperm(len(prompts), generator=order)[:wanted].tolist()]
        answers = ask(
            engine,
            loaded.tokenizer,
            picked,
            stage=SFT,
            temperature=1.0,
            copies=2,
            seed=derive_seed(seed, "votes", attempt) % 2**31,
            max_new_tokens=max_new_tokens,
        )
        for prompt, first, second in zip(picked, answers[::2], answers[1::2], strict=True):
            if first.text == second.text or not (first.ended and second.ended):
                continue
            choice = voter.vote(first.text, second.text)
            better, worse = (second, first) if choice == "b" else (first, second)
            comparisons.append(
                Comparison(
                    messages=asked_messages(prompt),
                    chosen=better.text,
                    rejected=worse.text,
                    outcome="tie" if choice == "tie" else "win",
                    voter=_voter(taste),
                    source="simulated",
                    extra={"checkpoints": authors},
                )
            )
        if len(comparisons) >= wanted:
            return comparisons[:wanted]
        say(f"{len(comparisons)} of {wanted} votes; only answers that end and differ are compared.")
    raise ValueError(
        f"Only {len(comparisons)} of {wanted} pairs differ: {writer} says the same thing twice. Train it further."
    )


def evaluate_directory(checkpoint: Path, data: Path | None, visitors: Path | None = None) -> dict[str, Any]:
    """The report-card entry of one checkpoint on the held-out part of a corpus; with `visitors`, on these too."""
    info = describe(checkpoint)
    corpus = from_directory(data) if data else corpus_for(str(info.get("preset") or ""))
    if visitors:
        corpus = dataclasses.replace(corpus, visitors=tuple(read_visitors(visitors)))
    limit = answer_tokens_of(info)
    corpus = fit_corpus(corpus, checkpoint, [], max_new_tokens=limit, say=lambda text: print(text, file=sys.stderr))
    return _rounded(evaluate_checkpoint(checkpoint, corpus=corpus, max_new_tokens=limit)) | {
        "scope": _scope(data, corpus)
    }


def _scope(data: Path | None, corpus: Corpus) -> dict[str, str]:
    """What the figures on this corpus are a claim about."""
    if data:
        return scope.OWN
    return scope.PLAIN if corpus.name == PLAIN else scope.SHIPPED


def _checked_configs(preset: str, changes: Mapping[str, Mapping[str, Any]], start: Path | None) -> dict[str, Any]:
    """Every stage's settings with the changes made; ValueError for a setting that is unknown or cannot be."""
    context = read_shape(start).context if start else get_preset(preset).model.context
    configs = {
        stage: RunSpec(stage=stage, preset=preset, config=changes.get(stage, {})).stage_config()
        for stage in STAGES
        if stage != INIT or not start
    }
    for config in configs.values():
        check_context(config, context)
    check_answer_tokens(configs[PPO], configs[GRPO])
    return configs


def _by_stage(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{"ppo.lr": 1e-4} as {"ppo": {"lr": 1e-4}}; ValueError for a name without a stage."""
    changes: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        stage, dot, setting = name.partition(".")
        if not dot or stage not in STAGES:
            raise ValueError(f"--set {name}: with `all`, name the stage too, for example ppo.lr=1e-4.")
        changes.setdefault(stage, {})[setting] = value
    return changes


def _rounded(entry: Mapping[str, Any]) -> dict[str, Any]:
    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(item) for item in value]
        return round(value, 4) if isinstance(value, float) else value

    return {name: short(value) for name, value in entry.items()}


_COLUMNS: Final = (
    ("checkpoint", "path", "{}"),
    ("strangers: facts", "visitor_facts", "{:.0%}"),
    ("talk", "visitor_talk", "{:.0%}"),
    ("problems", "visitor_problems", "{:.0%}"),
    ("bits/byte", "bits_per_byte", "{:.3f}"),
    ("answers right", "instruction_accuracy", "{:.0%}"),
    ("end", "ended", "{:.0%}"),
    ("tokens", "mean_tokens", "{:.0f}"),
    ("reward", "reward", "{:+.2f}"),
    ("wins", "win_rate_vs_parent", "{:.0%}"),
    ("pass@1", "pass_at_1", "{:.0%}"),
    ("pass@8", "pass_at_8", "{:.0%}"),
    ("agreement", "agreement", "{:.0%}"),
    ("seconds", "seconds", "{:.0f}"),
)


def render_card(card: Mapping[str, Any]) -> str:
    """The report card as a table in Markdown, so that it can be pasted as it is, and what its figures are about."""
    rows = [[title for title, _, _ in _COLUMNS]]
    for entry in card["checkpoints"]:
        values = [(entry.get(field), form) for _, field, form in _COLUMNS]
        rows.append(["" if value is None else form.format(value) for value, form in values])
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    head = (
        f"Report card: preset {card['preset']}, seed {card['seed']}, corpus {card['corpus']['name']}, "
        f"{card['training_seconds']:.0f} s of training; xz needs {card['xz_bits_per_byte']:.3f} bits/byte."
    )
    return "\n".join([head, "", *lines, "", *_about(card)])


def _about(card: Mapping[str, Any]) -> list[str]:
    """A line for each kind of figure: how much it stands on, and what it is a claim about."""
    entries = card["checkpoints"]

    def most(field: str) -> int:
        return max((entry.get(field) or 0 for entry in entries), default=0)

    lines = []
    if facts := most("visitor_facts_asked"):
        talk, problems = most("visitor_talk_asked"), most("visitor_problems_asked")
        lines.append(
            f"- strangers: of {facts:.0f} facts, {talk:.0f} greetings, forms and questions from elsewhere, and "
            f"{problems:.0f} problems. {card['scope']['visitors']}"
        )
    lines.append(f"- bits/byte: {card['scope']['bits_per_byte']}")
    if questions := most("held_out_questions"):
        lines.append(f"- answers right: of {questions} questions. {card['scope']['instruction_accuracy']}")
    wins = [entry for entry in entries if entry.get("win_rate_vs_parent") is not None]
    if wins:
        asked = f"of {most('sampled_answers')} answers to {wins[0]['held_out_prompts']} prompts, over the parent"
        lines.append(f"- wins: {asked}; {_intervals(wins, 'win_rate_interval')}. {card['scope']['win_rate']}")
    if problems := most("held_out_problems"):
        lines.append(f"- pass@1, pass@8: of {problems} problems. {card['scope']['problems']}")
    judged = [entry for entry in entries if entry.get("agreement") is not None]
    if judged:
        asked = f"of {judged[0]['held_out_comparisons']} pairs on {judged[0]['held_out_prompts']} prompts"
        lines.append(f"- agreement: {asked}; {_intervals(judged, 'agreement_interval')}. {card['scope']['agreement']}")
    return lines


def _intervals(entries: Sequence[Mapping[str, Any]], field: str) -> str:
    """The 95 % interval of each, as "ppo 72% to 84%"."""
    known = [(entry["path"], entry[field]) for entry in entries if entry.get(field)]
    if not known:
        return "too few prompts to say how sure that is"
    return "95 % over other prompts: " + ", ".join(f"{path} {low:.0%} to {high:.0%}" for path, (low, high) in known)
