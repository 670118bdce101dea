"""Signs that reinforcement learning is going wrong, or is about to, in plain language.

The idea: a rising reward curve looks the same whether the model gets better or finds a hole in the
reward. These checks compare a round with the first one and say what a person should look at. An alarm
is raised once a run: a figure that hovers around its bound would otherwise ring at every other round.

State is plain JSON, so alarms behave the same after a resume. Nothing here needs torch: the site asks
`doubts_about` before it starts a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from trainer.evaluation.statistics import MIN_GROUPS

KL_BLOW_UP: Final = 4.0
"""Times the target at which the KL to the reference is called a blow-up."""
ENTROPY_COLLAPSE: Final = 0.25
"""Share of the first round's entropy below which the policy says nearly the same every time."""
LENGTH_DRIFT: Final = 2.0
"""Factor, up or down, on the first round's answer length."""
REPETITION: Final = 0.3
"""Share of repeated token triples that no normal answer reaches."""
NO_SIGNAL: Final = 0.8
"""Share of groups with nothing to compare above which a round teaches next to nothing."""
CUT_OFF: Final = 0.5
"""Share of answers without an end above which the length limit decides what is learnt."""
RATIO_ERROR: Final = 0.01
"""Largest |ratio - 1| at the first minibatch that rounding may explain."""
WIN_RATE_DROP: Final = 0.15
"""Fall of the held-out win rate from its best that chance does not explain on some sixty prompts."""


def new_alarms(metrics: Mapping[str, float], state: dict[str, Any], *, kl_target: float | None = None) -> list[str]:
    """Texts of the alarms that became true with this round's `metrics`.

    Reads "kl", "entropy", "length", "ended", "repetition" and "first_ratio" where they are there, and of rounds with
    graded answers "solved" and "zero_variance". `state` keeps the first round's figures and which alarms were raised.
    """
    first = state.setdefault("first", {name: metrics[name] for name in ("entropy", "length") if name in metrics})
    return _risen("round", dict(_conditions(metrics, first, kl_target)), state)


def new_evaluation_alarms(reward: float, win_rate: float, state: dict[str, Any]) -> list[str]:
    """The same for an evaluation: the reward of the practised prompts up, wins on held-out prompts down.

    Both are the reward model's opinion, so this finds what does not carry over to other prompts. What the reward
    model itself gets wrong only voters can find: that is what the next votes are for.
    """
    best = state.get("best")
    if best is None or win_rate >= best[1]:
        state["best"] = [reward, win_rate]
        return _risen("evaluation", {}, state)
    found: dict[str, str] = {}
    if reward > best[0] and win_rate < best[1] - WIN_RATE_DROP:
        found["over-optimised"] = (
            f"The reward rose from {best[0]:.2f} to {reward:.2f} on the prompts it practises, but on held-out prompts "
            f"it wins {win_rate:.0%} instead of {best[1]:.0%}, by the reward model: it learns tricks that hold for "
            "those prompts only. Fewer rounds or a higher KL weight help."
        )
    return _risen("evaluation", found, state)


def doubts_about(metrics: Mapping[str, Any]) -> list[str]:
    """What a person should know before PPO optimises against a reward model with these metrics of its checkpoint.

    Empty where they are missing or no figures: a model from elsewhere was judged elsewhere.
    """
    names = ("held_out_comparisons", "agreement", "length_only_agreement")
    if metrics.get(names[0]) == 0:
        return ["No held-out vote has a winner, so nobody knows what it learnt."]
    if not all(isinstance(metrics.get(name), int | float) for name in names):
        return []
    comparisons, agreement, length_only = (float(metrics[name]) for name in names)
    prompts = metrics.get("held_out_prompts")
    tested_on = _counted(comparisons, "held-out vote")
    if isinstance(prompts, int | float):
        tested_on += f" on {_counted(prompts, 'question')}"
    else:  # an earlier version recorded none: there are no more of them than votes
        prompts = comparisons
    texts = []
    if prompts < MIN_GROUPS:
        texts.append(
            f"It agrees with {agreement:.0%} of {tested_on}: too few to say whether it has learnt anything. "
            f"The least are votes on {MIN_GROUPS} questions it has not seen."
        )
    elif not metrics.get("beats_chance"):
        texts.append(f"It agrees with {agreement:.0%} of {tested_on}, which could be luck.")
    if not metrics.get("beats_length"):
        texts.append(
            f"The length of the answers alone would reach {length_only:.0%} of the held-out votes, and it reaches "
            f"{agreement:.0%}. Unless the voters' taste is about length, it has not learnt it yet."
        )
    return texts


def _counted(count: float, what: str) -> str:
    return f"{count:.0f} {what}" if count == 1 else f"{count:.0f} {what}s"


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
    if "solved" in metrics:
        yield from _graded_conditions(metrics)
    else:
        yield from _manner_conditions(metrics, first)
    if metrics.get("ended", 1.0) < 1.0 - CUT_OFF:
        yield (
            "cut off",
            f"Only {metrics['ended']:.0%} of the answers end by themselves; the others are cut off and teach little. "
            "Allow longer answers, or fine-tune the parent further.",
        )
    if metrics.get("repetition", 0.0) > REPETITION:
        yield (
            "repetition",
            f"Answers repeat themselves: {metrics['repetition']:.0%} of their token triples occur twice.",
        )
    if abs(metrics.get("first_ratio", 1.0) - 1.0) > RATIO_ERROR:
        yield (
            "ratio",
            f"The first update saw a probability ratio of {metrics['first_ratio']:.3f} instead of 1: sampling and "
            "scoring disagree, so the gradients are wrong.",
        )


def _manner_conditions(metrics: Mapping[str, float], first: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Where answers may differ in manner only, they should go on differing, and not in length alone."""
    entropy, length = metrics.get("entropy"), metrics.get("length")
    if entropy is not None and entropy < ENTROPY_COLLAPSE * first["entropy"]:
        yield (
            "entropy",
            f"The answers are losing their variety: entropy fell from {first['entropy']:.2f} to {entropy:.2f} nats per "
            "token. It will soon stop learning, because all samples are alike.",
        )
    if length is not None and not first["length"] / LENGTH_DRIFT <= length <= first["length"] * LENGTH_DRIFT:
        yield (
            "length",
            f"Answers went from {first['length']:.0f} to {length:.0f} tokens. That is right if length is what the "
            "voters care about; otherwise the reward is counting words.",
        )


def _graded_conditions(metrics: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Where one answer is right, certainty is the aim and harder problems take longer; silence is the danger."""
    silent, solved = metrics.get("zero_variance", 0.0), metrics["solved"]
    if silent > NO_SIGNAL and solved < 0.5:
        yield (
            "no signal",
            f"In {silent:.0%} of the groups all answers earned the same, and {solved:.0%} of the answers are right: "
            "there is next to nothing to learn from. Start from a model that solves some of these problems.",
        )


def _risen(kind: str, found: Mapping[str, str], state: dict[str, Any]) -> list[str]:
    """Texts of what is found now and has not been raised in this run."""
    raised = state.setdefault("raised", {})
    before = set(raised.get(kind, []))
    raised[kind] = sorted(before | set(found))
    return [text for name, text in found.items() if name not in before]
