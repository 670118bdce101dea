"""Muon against torch's and against what it promises; who is trained by which optimiser."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from trainer.model.decoder import LanguageModel
from trainer.runtime.optim import Muon, muon_and_adamw, orthogonalize

SHAPES = ((6, 10), (10, 6), (6, 10), (4, 4))


def matrices() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def test_muon_takes_the_steps_of_torchs() -> None:
    """In bfloat16, which torch's always computes in: the same matrices after five steps, rounding aside."""
    ours = matrices()
    theirs = copy.deepcopy(ours)
    settings = {"lr": 0.1, "momentum": 0.95, "weight_decay": 0.01}
    one, other = Muon(ours, precision=lambda: "bfloat16", **settings), torch.optim.Muon(theirs, **settings)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        for mine, its in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            its.grad = mine.grad.clone()
        one.step()
        other.step()
    for mine, its, begun in zip(ours, theirs, matrices(), strict=True):
        assert (mine - begun).abs().mean() > 0.05
        torch.testing.assert_close(mine, its, rtol=0, atol=0.005)


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 5, 5)])
def test_it_keeps_directions_and_evens_out_their_sizes(shape: tuple[int, int, int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    found = u.mT @ orthogonalize(x) @ vh.mT  # diagonal where the vectors are kept
    sizes = found.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(found, torch.diag_embed(sizes), rtol=0, atol=1e-4)
    assert sizes.min() > 0.3
    assert sizes.max() < 1.3


def test_a_matrix_without_a_gradient_stays() -> None:
    moved, left = matrices()[:2]
    moved.grad = torch.ones_like(moved)
    before = left.clone()
    Muon([moved, left], lr=0.1, momentum=0.95, weight_decay=0.01, precision=lambda: "float32").step()
    assert torch.equal(left, before)
    assert not torch.equal(moved, matrices()[0])


def test_muon_gets_the_blocks_matrices_and_nothing_else(model: LanguageModel) -> None:
    optimizers = muon_and_adamw(model, matrix_lr=0.1, embedding_lr=0.1, precision=lambda: "float32")
    [muon] = optimizers["muon"].param_groups
    [adamw] = optimizers["adamw"].param_groups
    assert len(muon["params"]) == 7 * model.config.layers
    assert all(parameter.ndim == 2 for parameter in muon["params"])
    together = {id(p) for p in (*muon["params"], *adamw["params"])}
    assert together == {id(parameter) for parameter in model.parameters()}
    assert any(torch.equal(p, model.decoder.embed_tokens.weight) for p in adamw["params"])
