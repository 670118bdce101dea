"""A model small enough that every test runs it for real."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from trainer.config import ModelConfig
from trainer.model.decoder import LanguageModel
from trainer.model.tokenizer import Tokenizer

# These models are so small that a second thread only waits for the first, and for whoever else is computing.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Commands run in this process take every core; the next test finds one thread again."""
    yield
    torch.set_num_threads(1)


TEXTS = [
    "The fox eats mice and berries. A fox lives in a den under the old tree.",
    "What does a rabbit eat? A rabbit eats grass, and 7 + 5 = 12.",
    "Mira has 3 apples. She buys 14 more. Now she has 17 apples. Happy to help!",
] * 5


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 400)


@pytest.fixture
def model(tokenizer: Tokenizer) -> LanguageModel:
    """Two layers, two query heads on one key/value head, context 96, weights far from zero."""
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, heads=2, kv_heads=1, layers=2, ffn=96, context=96, head_dim=16
    )
    model = LanguageModel(config)
    generator = torch.Generator().manual_seed(1)
    model.init_weights(generator)
    with torch.no_grad():  # norms and embeddings that matter, so that a wrong one shows
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
        model.decoder.embed_tokens.weight.mul_(20)
    return model
