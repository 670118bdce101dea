"""What turns repeats into figures; the measuring itself is `make bench`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer import bench
from trainer.bench import flops_per_token
from trainer.config import ModelConfig
from trainer.runtime.measurements import Figure, percentile, ratios, table, write_section


def figure(*values: float, name: str = "speed", unit: str = "tokens/s", note: str = "") -> Figure:
    return Figure(name=name, unit=unit, values=values, note=note)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([5.0], 0.95, 5.0), ([4.0, 1.0, 3.0, 2.0], 0.5, 2.0), ([float(n) for n in range(1, 101)], 0.95, 95.0)],
)
def test_it_takes_the_nearest_rank(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_it_takes_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing to take a percentile of"):
        percentile([], 0.5)


def test_it_compares_pair_by_pair() -> None:
    compared = ratios("ours over theirs", figure(2.0, 12.0, 9.0), figure(1.0, 4.0, 9.0))
    assert compared.values == [2.0, 3.0, 1.0]
    assert compared.median == 2.0


def test_it_refuses_sides_with_different_repeats() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratios("uneven", figure(1.0, 2.0), figure(1.0))


def test_it_shows_the_median_with_its_range() -> None:
    lines = table([figure(1200.0, 900.0, 34_567.0), figure(0.0412, 0.5, 0.04, name="share", unit="×")]).splitlines()
    assert lines[0].split() == ["median", "min–max"]
    assert lines[1].split() == ["speed", "1,200", "900–34,567", "tokens/s"]
    assert lines[2].split() == ["share", "0.0412", "0.0400–0.500", "×"]


def test_it_says_why_a_figure_is_missing() -> None:
    line = table([figure(name="TRL", note="trl is not installed")]).splitlines()[1]
    assert line.split(maxsplit=3) == ["TRL", "–", "tokens/s", "trl is not installed"]
    assert "median" not in figure(note="trl is not installed").to_json()


def test_each_side_of_the_benchmark_writes_its_own_section(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "bench.json"
    write_section(path, "trainer", [figure(3.0, 1.0, 2.0)], about={"repeats": 3})
    write_section(path, "site", [figure(7.0)], about={})
    content = json.loads(path.read_text())
    assert set(content) == {"trainer", "site"}
    assert content["trainer"]["repeats"] == 3
    [written] = content["trainer"]["figures"]
    assert (written["median"], written["min"], written["max"]) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize("text", ["[1, 2]", "not JSON"])
def test_it_overwrites_no_other_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="not a file of measurements"):
        write_section(path, "site", [], about={})
    assert path.read_text() == text


def test_it_counts_the_arithmetic_of_a_token() -> None:
    shape = ModelConfig(vocab_size=10, heads=1, kv_heads=1, layers=2, ffn=4, context=8, head_dim=2)
    # Two layers of width 2: 4 attention matrices of 2×2, 3 of 2×4, 2 norms of 2; embedding 10×2, last norm 2.
    parameters = 2 * (4 * 4 + 3 * 8 + 4) + 20 + 2
    # Scores and mixing, forward and twice that backward: 3 · 2 · 2 operations per layer, number and earlier token.
    attention = 3 * 2 * 2 * 2 * 2 * (8 / 2)
    assert flops_per_token(shape, sequence=8) == 6 * parameters + attention


def test_of_a_model_from_elsewhere_the_sampler_alone_is_measured(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave --only out, or say --only sampler"):
        bench.run(out=tmp_path / "b.json", repeats=1, only=["ppo"], preset="tiny", threads=1, parent=tmp_path)
