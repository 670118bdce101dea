"""Anchor: keep what a reward does not ask for.

The idea: a stage that is paid for worked sums moves weights that hold facts and manners too, and loses them. So at
every step the model also reads conversations about something else, and pays wherever its distribution over the
assistant's next token is no longer its parent's ("learning without forgetting", Li and Hoiem 2016,
https://arxiv.org/abs/1606.09282, with the parent's own words as the old task). An unchanged model pays nothing.

Which conversations: those of the corpus, for a model that was raised on it. What a model from elsewhere would say is in
no corpus of ours, so it answers some prompts itself when a run begins, and is held to that: there the KL is taken at
the very tokens its parent would have come to.

Fine-tuning on the same conversations instead ("PPO-ptx" in InstructGPT, https://arxiv.org/abs/2203.02155, section
3.5, does that with documents) keeps the facts but undoes what PPO had changed about the manner.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainer.asked import Asked, Message, asked_messages
from trainer.config import SFT, GRPOConfig
from trainer.data.chats import ChatBatches
from trainer.data.corpus import Corpus
from trainer.data.prompting import asked_ids
from trainer.model.decoder import LanguageModel
from trainer.model.engine import Engine
from trainer.model.tokenizer import Tokenizer
from trainer.rl import losses
from trainer.rl.rollout import collect
from trainer.runtime.estimate import rows_at_once
from trainer.runtime.seeds import random_generator


class Anchor:
    """Pulls a policy towards its parent on packed conversations."""

    def __init__(
        self,
        policy: LanguageModel,
        parent: LanguageModel,
        conversations: Sequence[Sequence[Message]],
        tokenizer: Tokenizer,
        config: GRPOConfig,
        *,
        seed: int,
    ) -> None:
        """ValueError when no conversation fits the model's context."""
        self.policy, self.parent, self.config = policy, parent, config
        sequence = min(policy.config.context, config.anchor_sequence)
        self.batches = ChatBatches(conversations, tokenizer, sequence=sequence, rows=config.anchor_rows, seed=seed)
        self.device = policy.decoder.embed_tokens.weight.device
        self.fitting = rows_at_once(policy.config, sequence=sequence, device=self.device.type)
        self.place = 0

    def start_round(self, step: int) -> None:
        """Go to the conversations of round `step`, whatever was read before: a resumed run reads the same."""
        self.place = step * self.config.updates

    def add_gradients(self) -> float:
        """Add the gradient of the weighted KL on the next conversations to the policy's.

        Returns the KL(parent ‖ policy), in nats per token the assistant says.
        """
        chats = self.batches(self.place)
        self.place += 1
        tokens, total = int(chats.is_response.sum()), 0.0
        for part in chats.split(self.fitting):
            inputs, segments = part.inputs.to(self.device), part.segments.to(self.device)
            is_response = part.is_response.to(self.device)
            with torch.no_grad():
                wanted = self.parent.decoder(inputs, segments=segments)[is_response]  # (N, C)
            found = self.policy.decoder(inputs, segments=segments)[is_response]
            loss = losses.linear_kl_from(self.parent.logits, wanted, self.policy.logits, found).sum() / tokens
            (self.config.anchor_weight * loss).backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total


def other_conversations(corpus: Corpus) -> list[list[Message]]:
    """Those without any of the corpus's problems: about these the parent is not to be believed."""
    problems = {problem.prompt for problem in corpus.problems}
    return [talk for talk in corpus.conversations if problems.isdisjoint(turn["content"] for turn in talk)]


def own_conversations(
    engine: Engine, tokenizer: Tokenizer, prompts: Sequence[Asked], *, count: int, max_new_tokens: int, seed: int
) -> list[list[Message]]:
    """What the model in `engine` says to at most `count` of the prompts, at temperature 1; without what was cut off."""
    order = torch.randperm(len(prompts), generator=random_generator(seed, "anchor prompts")).tolist()
    chosen = [prompts[place] for place in order[:count]]
    room = engine.config.context - max_new_tokens
    rollouts = collect(
        engine,
        [asked_ids(tokenizer, asked, stage=SFT, room=room) for asked in chosen],
        temperature=1.0,
        max_new_tokens=max_new_tokens,
        generator=random_generator(seed, "anchor answers"),
    )
    return [
        [*asked_messages(chosen[rollout.group]), {"role": "assistant", "content": text}]
        for rollout in rollouts
        if rollout.is_complete and (text := tokenizer.decode(rollout.response).strip())
    ]
