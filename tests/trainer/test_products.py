from __future__ import annotations

import dataclasses

import pytest
import torch

from trainer.config import ModelConfig
from trainer.model import products
from trainer.model.decoder import Block, LanguageModel
from trainer.model.engine import Engine, Sampling
from trainer.model.products import can_pack, give_up, matrix, prepare

NARROW = ModelConfig(vocab_size=70, heads=4, kv_heads=2, layers=1, ffn=80, context=32)
WIDE = dataclasses.replace(NARROW, heads=6, width=384)
assert NARROW.width == 256 < WIDE.width
WITH_BIASES = {"qkv_bias": True, "o_bias": True, "mlp_bias": True}

is_packing = pytest.mark.skipif(not can_pack("cpu", torch.float32), reason="this processor's PyTorch packs nothing")


def block_of(config: ModelConfig, dtype: torch.dtype = torch.float32) -> Block:
    block = Block(config, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.uniform_(-0.1, 0.1, generator=generator)
    return block.to(dtype).requires_grad_(False)


def forward(block: Block, config: ModelConfig, *, rows: int, length: int, is_prepared: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    dtype = block.input_layernorm.weight.dtype
    x = torch.randn(rows, length, config.width, generator=generator).to(dtype)
    angles = torch.rand(length, config.head_dim, generator=generator)
    with torch.inference_mode():
        result: torch.Tensor = block(
            x, angles.cos(), angles.sin(), None, products=prepare(block) if is_prepared else None
        )
    return result


KINDS = {
    "joined": (NARROW, "_Joined", "_Small"),
    "packed": (WIDE, "_Wide", "_Packed"),
    "as they lie": (WIDE, "_Wide", "_Plain"),
}


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=is_packing if kind == "packed" else ()) for kind in KINDS])
@pytest.mark.parametrize("differs", [{}, WITH_BIASES, {"qk_norm": True}, {"qkv_bias": True}])
@pytest.mark.parametrize(("rows", "length"), [(1, 1), (3, 1), (2, 5)])
def test_prepared_products_are_the_blocks_own(
    kind: str, differs: dict[str, bool], rows: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, name, matrices = KINDS[kind]
    config = dataclasses.replace(config, **differs)  # type: ignore[arg-type]
    if kind == "as they lie":
        monkeypatch.setattr(products, "can_pack", lambda device, dtype: False)
    block = block_of(config)
    found = prepare(block)
    assert (type(found).__name__, type(found._down).__name__) == (name, matrices)  # type: ignore[attr-defined]
    own = forward(block, config, rows=rows, length=length, is_prepared=False)
    prepared = forward(block, config, rows=rows, length=length, is_prepared=True)
    torch.testing.assert_close(prepared, own, atol=1e-5, rtol=1e-5)


def test_in_bfloat16_they_are_as_near_to_exact_ones_as_the_blocks_own() -> None:
    block = block_of(WIDE, torch.bfloat16)
    exact = forward(block_of(WIDE, torch.bfloat16).float(), WIDE, rows=4, length=3, is_prepared=False)
    own, prepared = (
        (forward(block, WIDE, rows=4, length=3, is_prepared=is_prepared).float() - exact).abs().max()
        for is_prepared in (False, True)
    )
    assert prepared <= 1.5 * own < 0.05


def test_what_cannot_be_packed_is_used_where_it_lies() -> None:
    assert not can_pack("cuda", torch.float32)
    assert not can_pack("cpu", torch.float64)
    weight, x = torch.rand(5, 7, dtype=torch.float64), torch.rand(2, 7, dtype=torch.float64)
    torch.testing.assert_close(matrix(weight)(x), x @ weight.t())


@pytest.mark.parametrize("config", [NARROW, WIDE, dataclasses.replace(WIDE, is_tied=False)])
def test_an_owner_lets_go_of_the_matrices_and_writes_the_same(config: ModelConfig) -> None:
    def model() -> LanguageModel:
        new = LanguageModel(config)
        new.init_weights(torch.Generator().manual_seed(3))
        return new

    sampling = [Sampling(max_new_tokens=9, seed=seed) for seed in range(3)]
    prompts = [[5, 6], [7], [5, 6, 8]]
    other = Engine(model(), end_ids=[]).generate(prompts, sampling)
    owner = Engine(model(), end_ids=[], is_owner=True)
    for _ in range(2):  # it stays ready
        assert [one.tokens for one in owner.generate(prompts, sampling)] == [one.tokens for one in other]
    left = sum(parameter.numel() for parameter in owner.model.parameters())
    norms = config.width * (2 * config.layers + 1)
    assert left == config.vocab_size * config.width + norms  # rows to look up
    with pytest.raises(RuntimeError, match="Load its checkpoint once more"):
        owner.model.decoder(torch.tensor([[1, 2]]))


def test_a_block_that_gave_up_its_matrices_leaves_its_products_whole() -> None:
    block = block_of(WIDE)
    before = forward(block, WIDE, rows=1, length=2, is_prepared=True)
    prepared = prepare(block)
    give_up(block)
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(2)
        x = torch.randn(1, 2, WIDE.width, generator=generator)
        angles = torch.rand(2, WIDE.head_dim, generator=generator)
        after = block(x, angles.cos(), angles.sin(), None, products=prepared)
    torch.testing.assert_close(after, before)
