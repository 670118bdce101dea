"""What a stage reads, and what is recorded of it: the same run, or another?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from trainer.config import to_dict
from trainer.data.corpus import Corpus
from trainer.data.preferences import Comparison
from trainer.presets import Preset


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything a stage reads."""

    preset: Preset
    corpus: Corpus
    seed: int = 0
    parent: Path | None = None
    """Checkpoint directory the stage starts from; None only for `init`."""
    reward_model: Path | None = None
    """Reward checkpoint directory (ppo; grpo shows its score)."""
    comparisons: list[Comparison] = field(default_factory=list)
    """Votes to learn from (reward)."""
    inputs_sha256: dict[str, str] = field(default_factory=dict)
    """Hashes of the frozen inputs, for the lineage in stage.json."""


_INPUTS: Final = {"corpus": "corpus", "votes": "votes file", "reward_model": "reward model"}
"""Names of what `data_sha256` holds, in words."""
_SETTING: Final = "setting "
"""What the name of a setting begins with, in words."""


def describe_run(inputs: Inputs, *, parent: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """What decides how a run ends, as stage.json keeps it; `parent` is the parent's stage.json."""
    return {
        "preset": inputs.preset.name,
        "parent_sha256": parent.get("weights_sha256"),
        "seed": inputs.seed,
        "config": config if isinstance(config, dict) else to_dict(config),
        "data_sha256": {"corpus": inputs.corpus.sha256, **inputs.inputs_sha256},
    }


def check_same_run(
    out_dir: Path, recorded: Mapping[str, Any], wanted: Mapping[str, Any], *, is_half_finished: bool = False
) -> None:
    """Raise ValueError unless what `out_dir` records of its run is what `wanted` describes.

    What is not recorded is no difference, and a setting that is gone from the code is none either: other versions
    recorded less or more. But a half-finished run goes on only with the very settings it began with, because a
    setting that one of two versions does not know may change what the steps that are left compute.
    """
    before, now = _flat(recorded), _flat(wanted)
    names = [
        name
        for name in {**now, **before}
        if (name in now and name in before)
        or (name in before and name in _INPUTS.values())  # a hash of an input that this run does not have
        or (is_half_finished and name.startswith(_SETTING))
    ]
    changed = [name for name in names if before.get(name) != now.get(name)]
    if changed:
        values = [(name, _shown(before.get(name)), _shown(now.get(name))) for name in changed[:3]]
        found = "; ".join(f"its {name} is {old}, not {new}" for name, old, new in values)
        raise ValueError(f"{out_dir} holds another run ({found}). Choose another --out, or delete it.")


def _flat(description: Mapping[str, Any]) -> dict[str, Any]:
    """A description with its names in words: where a run came from first, its settings last."""
    flat = {name: description[name] for name in ("stage", "preset", "seed") if name in description}
    if "parent_sha256" in description:
        flat["parent"] = description["parent_sha256"]
    hashes, settings = description.get("data_sha256"), description.get("config")
    if isinstance(hashes, Mapping):
        flat |= {_INPUTS.get(str(name), str(name)): value for name, value in hashes.items()}
    if isinstance(settings, Mapping):
        flat |= {f"{_SETTING}{name}": value for name, value in settings.items()}
    return flat


def _shown(value: Any) -> str:
    """A value as one reads it; of a hash its first digits."""
    text = "none" if value is None else str(value)
    return text[:8] if len(text) == 64 else text[:60]


def stage_info(
    inputs: Inputs, *, parent: Mapping[str, Any], config: Any, state: Mapping[str, Any], metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """What every trained checkpoint's stage.json records about its run."""
    return {
        **describe_run(inputs, parent=parent, config=config),
        "answer_tokens": getattr(config, "max_new_tokens", inputs.preset.answer_tokens),
        "precision": state.get("precision", "float32"),
        "metrics": dict(metrics),
        "seconds": round(state["seconds"], 1),
    }
