"""How a reward model does on comparisons: agreement with its interval, calibration, and what length alone scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.asked import Message
from trainer.data.preferences import Comparison
from trainer.evaluation.statistics import MIN_GROUPS, Share, calibration_error, grouped, share_of
from trainer.model.decoder import ScalarModel
from trainer.model.tokenizer import Tokenizer
from trainer.rl.scoring import end_scores, scored_sequence


def comparison_sequences(
    tokenizer: Tokenizer, messages: Sequence[Message], answers: Sequence[str], *, context: int
) -> list[list[int]]:
    """Each answer after the conversation, as ids that end in the end token."""
    prompt, said = tokenizer.render_answers(messages, answers)
    return [scored_sequence(tokenizer, prompt, answer, context=context) for answer in said]


def interval_or_none(figure: Share | Agreement) -> list[float] | None:
    """Both ends of its interval, as files keep it; None where there are too few prompts to say."""
    return [figure.low, figure.high] if figure.is_enough else None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How a reward model does on comparisons with a winner; ties and both-bad pairs are not asked."""

    comparisons: int
    prompts: int
    """How many prompts these are on."""
    agreement: float
    """Share of comparisons in which the winner scores higher (equal scores count half)."""
    low: float
    high: float
    """95 % interval of the agreement over other prompts (statistics.share_of); 0 and 1 with too few prompts to say."""
    length_only_agreement: float
    """What the better of the rules "shorter wins" and "longer wins" would score."""
    length_correlation: float
    """Pearson correlation of score and answer length in tokens."""
    calibration_error: float | None
    """Distance of σ(|Δ|) from the share right (statistics.calibration_error); None with too few comparisons to say."""
    brier: float
    """Mean (1 - σ(Δ))²: 0 is perfect, 0.25 is a coin."""

    @property
    def is_enough(self) -> bool:
        """Whether there are enough prompts for an interval."""
        return self.prompts >= MIN_GROUPS

    @property
    def beats_chance(self) -> bool:
        return self.is_enough and self.low > 0.5

    @property
    def beats_length(self) -> bool:
        return self.agreement > self.length_only_agreement


def reward_agreement(reward_model: ScalarModel, tokenizer: Tokenizer, comparisons: Sequence[Comparison]) -> Agreement:
    """Judge a reward model on comparisons: held-out votes, or pairs labelled by a true taste."""
    decided = [comparison for comparison in comparisons if comparison.outcome == "win"]
    context = reward_model.config.context
    sequences = [
        sequence
        for comparison in decided
        for sequence in comparison_sequences(
            tokenizer, comparison.messages, [comparison.chosen, comparison.rejected], context=context
        )
    ]
    scores = end_scores(reward_model, sequences, pad_id=tokenizer.pad_id).view(-1, 2)
    lengths = torch.tensor(
        [[len(tokenizer.encode(text)) for text in (comparison.chosen, comparison.rejected)] for comparison in decided],
        dtype=torch.float32,
    ).view(-1, 2)
    return agreement_of(scores, lengths, [comparison.prompt for comparison in decided])


def agreement_of(scores: Tensor, lengths: Tensor, prompts: Sequence[str]) -> Agreement:
    """`Agreement` from the scores and lengths of (winner, loser) pairs, [N, 2] each, on these N prompts."""
    right = _share_first_larger(scores)
    share = share_of(grouped(right.tolist(), prompts))
    if share is None:
        return Agreement(
            comparisons=0,
            prompts=0,
            agreement=0.5,
            low=0.0,
            high=1.0,
            length_only_agreement=0.5,
            length_correlation=0.0,
            calibration_error=None,
            brier=0.25,
        )
    delta = scores[:, 0] - scores[:, 1]
    return Agreement(
        comparisons=share.count,
        prompts=share.groups,
        agreement=float(right.mean()),
        low=share.low,
        high=share.high,
        length_only_agreement=max(float(_share_first_larger(by).mean()) for by in (lengths, -lengths)),
        length_correlation=_pearson(scores.flatten(), lengths.flatten()),
        calibration_error=calibration_error(torch.sigmoid(delta.abs()).tolist(), right.tolist(), prompts),
        brier=float((1.0 - torch.sigmoid(delta)).square().mean()),
    )


def _share_first_larger(pairs: Tensor) -> Tensor:
    """[N, 2] -> [N]: 1 where the first is larger, 0.5 where they are equal, 0 otherwise; exact in means."""
    return (pairs[:, 0] > pairs[:, 1]).double() + 0.5 * (pairs[:, 0] == pairs[:, 1]).double()


def _pearson(x: Tensor, y: Tensor) -> float:
    """Correlation; 0 where one of the two does not vary."""
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    scale = float(x.norm() * y.norm())
    return float(x @ y) / scale if scale > 1e-12 else 0.0
