"""Signs that reinforcement learning is going wrong, in plain language.

The idea: a rising reward curve looks the same whether the model gets better or finds a hole in the
reward. These checks compare a round with the first one and say what a person should look at. An alarm
is raised once a run: a figure that hovers around its bound would otherwise ring at every other round.

State is plain JSON, so alarms behave the same after a resume.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

KL_BLOW_UP: Final = 4.0
"""Times the target at which the KL to the reference is called a blow-up."""
ENTROPY_COLLAPSE: Final = 0.25
"""Share of the first round's entropy below which the policy says nearly the same every time."""
LENGTH_DRIFT: Final = 2.0
"""Factor, up or down, on the first round's answer length."""
REPETITION: Final = 0.3
"""Share of repeated word triples that no normal answer reaches."""
RATIO_ERROR: Final = 0.01
"""Largest |ratio - 1| at the first minibatch that rounding may explain."""
WIN_RATE_DROP: Final = 0.15
"""Fall of the held-out win rate from its best that chance does not explain on some sixty prompts."""


def new_alarms(metrics: Mapping[str, float], state: dict[str, Any], *, kl_target: float | None = None) -> list[str]:
    """Texts of the alarms that became true with this round's `metrics`.

    Reads "kl", "entropy", "length", "repetition" and "first_ratio" where they are there. `state` keeps the
    first round's figures and which alarms were raised.
    """
    first = state.setdefault("first", {name: metrics[name] for name in ("entropy", "length") if name in metrics})
    return _risen("round", dict(_conditions(metrics, first, kl_target)), state)


def new_evaluation_alarms(reward: float, win_rate: float, state: dict[str, Any]) -> list[str]:
    """The same for an evaluation: a higher reward than at the best win rate on held-out prompts, but fewer wins."""
    best = state.get("best")
    if best is None or win_rate >= best[1]:
        state["best"] = [reward, win_rate]
        return _risen("evaluation", {}, state)
    found: dict[str, str] = {}
    if reward > best[0] and win_rate < best[1] - WIN_RATE_DROP:
        found["over-optimised"] = (
            f"The reward rose from {best[0]:.2f} to {reward:.2f} while the win rate on held-out prompts fell from "
            f"{best[1]:.0%} to {win_rate:.0%}: the model may be exploiting the reward model."
        )
    return _risen("evaluation", found, state)


def repetition(answers: Sequence[Sequence[int]]) -> float:
    """Mean over answers of the share of their token triples that occurred before in the same answer."""
    shares = []
    for tokens in answers:
        triples = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
        shares.append(1.0 - len(set(triples)) / len(triples) if triples else 0.0)
    return sum(shares) / max(1, len(shares))


def _conditions(
    metrics: Mapping[str, float], first: Mapping[str, float], kl_target: float | None
) -> Iterator[tuple[str, str]]:
    kl = metrics.get("kl")
    if kl is not None and kl_target and kl > KL_BLOW_UP * kl_target:
        yield (
            "kl",
            f"The model has moved {kl:.1f} nats per answer away from where it started, {kl / kl_target:.1f} times the "
            "target. Lower the learning rate or raise the KL weight.",
        )
    entropy = metrics.get("entropy")
    if entropy is not None and entropy < ENTROPY_COLLAPSE * first["entropy"]:
        yield (
            "entropy",
            f"The answers are losing their variety: entropy fell from {first['entropy']:.2f} to {entropy:.2f} nats per "
            "token. It will soon stop learning, because all samples are alike.",
        )
    length = metrics.get("length")
    if length is not None and not first["length"] / LENGTH_DRIFT <= length <= first["length"] * LENGTH_DRIFT:
        yield (
            "length",
            f"Answers went from {first['length']:.0f} to {length:.0f} tokens. That is right if length is what the "
            "voters care about; otherwise the reward is counting words.",
        )
    if metrics.get("repetition", 0.0) > REPETITION:
        yield "repetition", f"Answers repeat themselves: {metrics['repetition']:.0%} of their word triples occur twice."
    if abs(metrics.get("first_ratio", 1.0) - 1.0) > RATIO_ERROR:
        yield (
            "ratio",
            f"The first update saw a probability ratio of {metrics['first_ratio']:.3f} instead of 1: sampling and "
            "scoring disagree, so the gradients are wrong.",
        )


def _risen(kind: str, found: Mapping[str, str], state: dict[str, Any]) -> list[str]:
    """Texts of what is found now and has not been raised in this run."""
    raised = state.setdefault("raised", {})
    before = set(raised.get(kind, []))
    raised[kind] = sorted(before | set(found))
    return [text for name, text in found.items() if name not in before]
