"""The trainer from a notebook or a script: a model is loaded, asked and looked into by a few names that stay.

    from trainer.api import Sampling, generate, load
    loaded = load("var/checkpoints/sft-0123456789ab")
    print(generate(loaded, [[{"role": "user", "content": "What does a fox eat?"}]], Sampling(seed=1))[0])
    ids, is_response = loaded.render([{"role": "user", "content": "Hi"}], add_generation_prompt=True)
    logits = loaded.model(torch.tensor([ids]))  # [1, T, vocabulary]

Any directory that the site takes in can be loaded here: ours, or one in Hugging Face layout (model/families.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from trainer.asked import Message
from trainer.model import checkpoint
from trainer.model.decoder import LanguageModel, ScalarModel
from trainer.model.engine import Engine, Sampling
from trainer.model.tokenizer import Tokenizer

__all__ = ["Answer", "Engine", "LoadedModel", "Sampling", "generate", "load"]


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, and its tokenizer."""

    model: LanguageModel | ScalarModel
    """Called with ids [B, T] it gives logits [B, T, vocabulary], and a reward model scores [B, T]."""
    tokenizer: Tokenizer
    info: Mapping[str, Any]
    """stage.json; empty for a directory from elsewhere."""

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Every token that ends an answer."""
        return tuple(self.tokenizer.end_ids)

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False
    ) -> tuple[list[int], list[bool]]:
        """A conversation as ids by the model's own template, and for each whether the assistant is responsible for it.

        ValueError for roles or an order of turns that the template refuses.
        """
        return self.tokenizer.render_chat(messages, add_generation_prompt=add_generation_prompt)

    def engine(self, *, max_batch: int = 64) -> Engine:
        """A sampler of this model, to keep for many calls; ValueError for a reward model."""
        if not isinstance(self.model, LanguageModel):
            raise ValueError("This is a reward model: it scores text and cannot write any.")
        return Engine(self.model, end_ids=self.end_ids, max_batch=max_batch)


class Answer(str):
    """The text of an answer, and what it was made of."""

    tokens: list[int]
    """Its ids, the end included where one was drawn."""
    logprobs: list[float]
    """Of each, under softmax(logits / temperature)."""
    finish_reason: Literal["end", "length"]


def load(directory: str | Path, *, device: str | torch.device = "cpu") -> LoadedModel:
    """Load a checkpoint directory in float32; ValueError in one sentence for one that cannot be used."""
    loaded = checkpoint.load_checkpoint(Path(directory), device=device)
    return LoadedModel(loaded.model, loaded.tokenizer, loaded.info)


def generate(
    loaded: LoadedModel, list_of_messages: Sequence[Sequence[Message]], sampling: Sampling | None = None
) -> list[Answer]:
    """The model's answer to each conversation, in order, all sampled together.

    Conversation i is drawn with seed `sampling.seed` + i, so the same question asked twice is answered twice.
    ValueError for a reward model, and for a conversation that leaves no room for an answer.
    """
    sampling = sampling or Sampling()
    if any(isinstance(messages, Mapping) for messages in list_of_messages):
        raise ValueError("generate takes a list of conversations, each a list of messages; put it in one more list.")
    prompts = [loaded.render(messages, add_generation_prompt=True)[0] for messages in list_of_messages]
    samplings = [replace(sampling, seed=sampling.seed + number) for number in range(len(prompts))]
    answers = []
    for completion in loaded.engine().generate(prompts, samplings):
        ids = completion.tokens
        text = loaded.tokenizer.decode(ids[:-1] if completion.finish_reason == "end" else ids)
        answer = Answer(text)
        answer.tokens, answer.logprobs = ids, completion.logprobs
        answer.finish_reason = "end" if completion.finish_reason == "end" else "length"
        answers.append(answer)
    return answers
