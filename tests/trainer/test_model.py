from __future__ import annotations

import pytest
import torch

from trainer.model.decoder import LanguageModel, RMSNorm, ScalarModel, attend, rope_table, rotate, segment_positions
from trainer.presets import PRESETS, shape


def test_it_normalises_by_the_root_mean_square() -> None:
    norm = RMSNorm(2, eps=0.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0]))
    # rms of (3, 4) is sqrt(12.5) = 3.535534
    torch.testing.assert_close(norm(torch.tensor([3.0, 4.0])), torch.tensor([0.848528, 2.262742]))


def test_it_turns_pairs_by_position_times_frequency() -> None:
    cos, sin = rope_table(3, 4, theta=100.0)  # frequencies 1 and 0.1
    turned = rotate(torch.tensor([1.0, 1.0, 0.0, 0.0]), cos[2], sin[2])
    # position 2: angles 2 and 0.2; the pairs are (0, 2) and (1, 3)
    torch.testing.assert_close(turned, torch.tensor([-0.416147, 0.980067, 0.909297, 0.198669]))


def test_it_numbers_positions_inside_each_segment() -> None:
    segments = torch.tensor([[0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 1, 1]])
    assert segment_positions(segments).tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]]


def test_it_reads_a_packed_conversation_as_if_it_stood_alone(model: LanguageModel) -> None:
    first, second = torch.tensor([5, 6, 7]), torch.tensor([8, 9, 10, 11])
    packed = model(torch.cat([first, second]).unsqueeze(0), segments=torch.tensor([[0, 0, 0, 1, 1, 1, 1]]))[0]
    torch.testing.assert_close(packed[:3], model(first.unsqueeze(0))[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed[3:], model(second.unsqueeze(0))[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_it_attends_in_bfloat16_products_as_the_kernel_does(packed: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 9, 8, generator=draw).bfloat16().requires_grad_() for heads in (6, 2, 2))
    segments = torch.tensor([[0] * 4 + [1] * 5, [0] * 9])
    allowed = (segments.unsqueeze(2) == segments.unsqueeze(1)).tril().unsqueeze(1)  # (B, 1, T, T)
    products = attend(q, k, v, allowed if packed else None)
    exact = [tensor.detach().double().requires_grad_() for tensor in (q, k, v)]
    kernel = torch.nn.functional.scaled_dot_product_attention(
        *exact, attn_mask=allowed if packed else None, is_causal=not packed, enable_gqa=True
    )
    torch.testing.assert_close(products.double(), kernel, atol=0.03, rtol=0.02)  # bfloat16 keeps 8 bits
    slope = torch.randn(kernel.shape, generator=draw)
    found = torch.autograd.grad(products, (q, k, v), slope.bfloat16())
    wanted = torch.autograd.grad(kernel, exact, slope.double())
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, atol=0.05, rtol=0.05)


def test_it_never_looks_ahead(model: LanguageModel) -> None:
    tokens = torch.tensor([[5, 6, 7, 8, 9]])
    changed = tokens.clone()
    changed[0, 3:] = 20
    assert torch.equal(model(tokens)[0, :3], model(changed)[0, :3])


def test_it_counts_its_parameters_as_the_config_says() -> None:
    config = PRESETS["tiny"].model
    assert sum(parameter.numel() for parameter in LanguageModel(config).parameters()) == config.parameters


def test_it_starts_with_a_loss_close_to_guessing() -> None:
    config = shape(1, vocab_size=512, context=64, kv_heads=1)
    model = LanguageModel(config)
    model.init_weights(torch.Generator().manual_seed(0))
    tokens = torch.randint(512, (8, 65), generator=torch.Generator().manual_seed(1))
    loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(loss.item() - 6.238) < 0.05  # ln 512


def test_it_draws_the_same_weights_from_the_same_seed() -> None:
    config = shape(1, vocab_size=300, context=64, kv_heads=1)
    states = []
    for seed in (3, 3, 4):
        model = LanguageModel(config)
        model.init_weights(torch.Generator().manual_seed(seed))
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["decoder.embed_tokens.weight"], states[2]["decoder.embed_tokens.weight"])


def test_it_applies_the_final_norm_once_in_a_scalar_model(model: LanguageModel) -> None:
    scalar = ScalarModel.from_language_model(model, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[5, 6, 7]])
    x = model.decoder.embed_tokens(tokens)
    for block in model.decoder.layers:
        x = block(x, model.decoder.cos[:3], model.decoder.sin[:3], None)
    by_hand = (
        x / x.square().mean(-1, keepdim=True).add(1e-5).sqrt() * model.decoder.norm.weight
    ) @ scalar.head.weight.T
    torch.testing.assert_close(scalar(tokens), by_hand.squeeze(-1), atol=1e-5, rtol=1e-5)


def test_it_gives_a_fresh_head_the_right_spread() -> None:
    config = shape(8, vocab_size=300, context=64, kv_heads=8)
    model = LanguageModel(config)
    scalar = ScalarModel.from_language_model(model, generator=torch.Generator().manual_seed(0))
    # 512 draws of std 1/sqrt(513) = 0.04415: the estimate is within 10 % almost surely
    assert abs(scalar.head.weight.std().item() / 0.04415 - 1) < 0.1


def test_it_refuses_a_row_longer_than_the_context(model: LanguageModel) -> None:
    with pytest.raises(ValueError, match="97 tokens do not fit this model's context of 96"):
        model(torch.zeros(1, 97, dtype=torch.long))
