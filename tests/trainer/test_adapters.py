from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from trainer.model import adapters
from trainer.model.adapters import LoRALinear
from trainer.model.checkpoint import save_checkpoint
from trainer.model.decoder import LanguageModel, ScalarModel
from trainer.model.engine import Engine, Sampling
from trainer.model.tokenizer import Tokenizer

TOKENS = torch.arange(24).view(2, 12) * 7 % 300


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(model: LanguageModel, *, rank: int = 4) -> LanguageModel:
    """The model with an adapter that has moved."""
    policy = adapters.adapted(model, rank=rank, generator=generator())
    with torch.no_grad():
        for name, tensor in adapters.own_tensors(policy).items():
            if name.endswith("lora_B"):
                tensor.normal_(0.0, 0.05, generator=generator())
    return policy


def linears(model: nn.Module) -> list[LoRALinear]:
    return [part for part in model.modules() if isinstance(part, LoRALinear)]


def test_an_adapter_begins_as_the_base_over_the_very_same_tensors(model: LanguageModel) -> None:
    policy = adapters.adapted(model, rank=4, generator=generator())
    torch.testing.assert_close(policy(TOKENS), model(TOKENS), rtol=0, atol=1e-5)
    assert len(linears(policy)) == 2 * 7
    own = adapters.own_tensors(policy)
    shared = {name: tensor for name, tensor in policy.state_dict().items() if name not in own}
    base = model.state_dict()
    assert shared.keys() == base.keys()
    assert all(shared[name].data_ptr() == base[name].data_ptr() for name in base)


def test_only_the_adapter_learns_and_the_base_stays(model: LanguageModel) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = model(TOKENS).detach()
    policy = trained(model)
    policy(TOKENS).logsumexp(-1).sum().backward()
    torch.optim.AdamW(adapters.learning(policy), lr=0.1).step()
    assert {id(p) for p in adapters.learning(policy)} == {id(t) for t in adapters.own_tensors(policy).values()}
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert torch.equal(model(TOKENS), plain)
    assert not torch.allclose(policy(TOKENS), plain)


def test_its_gradient_is_that_of_the_product_written_out() -> None:
    base = nn.Linear(5, 3, bias=False).requires_grad_(False)
    layer = LoRALinear(base, rank=2, scale=2.0, generator=generator())
    nn.init.normal_(layer.lora_B)
    x, slope = torch.randn(4, 5), torch.randn(4, 3)
    (layer(x) * slope).sum().backward()
    # y = x Wᵀ + 2 x Aᵀ Bᵀ, so dB = 2 slopeᵀ (x Aᵀ) and dA = 2 Bᵀ slopeᵀ x
    torch.testing.assert_close(layer.lora_B.grad, 2 * slope.T @ (x @ layer.lora_A.T))
    torch.testing.assert_close(layer.lora_A.grad, 2 * layer.lora_B.T @ slope.T @ x)


def test_merged_weights_say_what_base_and_adapter_say(model: LanguageModel) -> None:
    policy = trained(model)
    layer = linears(policy)[0]
    torch.testing.assert_close(layer.merged(), layer.weight + 2.0 * layer.lora_B @ layer.lora_A)
    with_base = policy(TOKENS)
    merged = adapters.merge_into(model, policy)  # last: the base is what it is written into
    torch.testing.assert_close(merged(TOKENS), with_base, rtol=1e-4, atol=1e-4)


def test_it_merges_into_weights_that_lie_on_another_device() -> None:
    layer = LoRALinear(nn.Linear(4, 3), rank=2, scale=2.0, generator=torch.Generator())
    assert layer.merged_with(torch.empty(3, 4, device="meta")).shape == (3, 4)  # the only other one every machine has


def test_the_engine_samples_from_base_and_adapter(model: LanguageModel) -> None:
    policy = trained(model)
    engine = Engine(policy, end_ids=[-1])
    for _ in range(2):  # the second time after a step
        (answer,) = engine.generate([[5, 6, 7]], [Sampling(max_new_tokens=6, seed=1)])
        logprobs = policy(torch.tensor([[5, 6, 7, *answer.tokens]])).log_softmax(-1)[0, 2:-1]
        found = logprobs.gather(1, torch.tensor(answer.tokens)[:, None]).squeeze(1).tolist()
        assert answer.logprobs == pytest.approx(found, abs=1e-4)
        with torch.no_grad():
            linears(policy)[3].lora_B.add_(0.1)


def test_merging_in_bfloat16_keeps_what_the_nearest_number_would_lose() -> None:
    base = torch.full((400, 500), 0.05).bfloat16()
    small = 0.1 * (torch.nextafter(base[0, 0], torch.tensor(1.0).bfloat16()) - base[0, 0]).float()
    for sign in (1.0, -1.0):
        wanted = sign * (base.float() + small)
        assert torch.equal(wanted.bfloat16(), sign * base)  # the nearest: all is lost
        merged = adapters.rounded(wanted, torch.bfloat16)
        assert set(merged.flatten().tolist()) <= {
            sign * base[0, 0].item(),
            (sign * (base[0, 0].float() + 10 * small)).item(),
        }
        assert merged.float().mean().item() == pytest.approx(wanted[0, 0].item(), abs=0.05 * small.item())
        assert torch.equal(merged, adapters.rounded(wanted, torch.bfloat16))


def test_rounding_leaves_alone_what_needs_none(model: LanguageModel) -> None:
    weight = linears(adapters.adapted(model.bfloat16(), rank=2, generator=generator()))[0]
    assert torch.equal(weight.merged(), weight.weight)  # nothing was learnt yet
    assert torch.equal(adapters.rounded(weight.weight.float(), torch.float32), weight.weight.float())


def test_a_bfloat16_base_learns_in_float32(model: LanguageModel) -> None:
    policy = trained(model.bfloat16())
    assert {parameter.dtype for parameter in adapters.learning(policy)} == {torch.float32}
    policy(TOKENS).logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in adapters.learning(policy))


def test_a_scalar_model_stands_on_the_same_base(model: LanguageModel) -> None:
    head = torch.randn(1, model.config.width)
    critic = adapters.adapted(adapters.scalar_over(model, head=head, bias=0.5), rank=4, generator=generator())
    assert critic.decoder.embed_tokens.weight is model.decoder.embed_tokens.weight
    torch.testing.assert_close(critic(TOKENS), model.decoder(TOKENS) @ head[0] + 0.5)
    assert critic.head.weight in {*adapters.learning(critic)}
    again = adapters.twin(critic)
    with torch.no_grad():
        again.head.weight.zero_()
        linears(again)[0].lora_B.fill_(1.0)
    assert critic.head.weight.abs().sum() > 0
    assert linears(critic)[0].lora_B.abs().sum() == 0


def test_what_learns_is_a_module_that_another_model_can_stand_on(model: LanguageModel) -> None:
    policy = trained(model)
    learnt = adapters.learnt(policy)
    assert sum(tensor.numel() for tensor in learnt.state_dict().values()) == sum(
        parameter.numel() for parameter in adapters.learning(policy)
    )
    average = torch.optim.swa_utils.AveragedModel(learnt)
    mean = adapters.standing_on(policy, average.module)
    assert mean.decoder.embed_tokens.weight is model.decoder.embed_tokens.weight
    average.update_parameters(learnt)
    before = [parameter.detach().clone() for parameter in adapters.learning(policy)]
    with torch.no_grad():
        for parameter in adapters.learning(policy):
            parameter.add_(1.0)
    average.update_parameters(learnt)
    for found, first in zip(adapters.learning(mean), before, strict=True):
        torch.testing.assert_close(found, first + 0.5)
    assert adapters.learnt(model) is model


@pytest.mark.parametrize("kind", ["language", "scalar"])
def test_it_reads_what_it_wrote(tmp_path: Path, model: LanguageModel, kind: str) -> None:
    policy: LanguageModel | ScalarModel = trained(model)
    if kind == "scalar":
        policy = adapters.adapted(
            adapters.scalar_over(model, head=torch.randn(1, model.config.width), bias=0.25),
            rank=3,
            generator=generator(),
        )
    said = adapters.save_adapter(tmp_path, policy, base_sha256="b" * 64)
    adapter = adapters.read_adapter(tmp_path, sha256=said["sha256"])
    assert adapter is not None
    assert adapter.base_sha256 == said["base_sha256"] == "b" * 64
    again = adapter.on(model, bias=0.25)
    assert type(again) is type(policy)
    assert torch.equal(again(TOKENS), policy(TOKENS))
    assert adapters.read_adapter(tmp_path / "elsewhere") is None


def damage_hash(directory: Path) -> None:
    (directory / "adapter_model.safetensors").write_bytes(b"other")


def damage_rank(directory: Path) -> None:
    config = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps(config | {"r": 10**9}))


def damage_config(directory: Path) -> None:
    (directory / "adapter_config.json").unlink()


@pytest.mark.parametrize("damage", [damage_hash, damage_rank, damage_config])
def test_it_refuses_a_damaged_adapter(tmp_path: Path, model: LanguageModel, damage: object) -> None:
    said = adapters.save_adapter(tmp_path, trained(model), base_sha256="b" * 64)
    assert callable(damage)
    damage(tmp_path / "adapter")
    with pytest.raises(adapters.AdapterError, match="Restore or retrain it"):
        adapters.read_adapter(tmp_path, sha256=said["sha256"])


def test_it_refuses_an_adapter_of_another_shape(tmp_path: Path, model: LanguageModel) -> None:
    adapters.save_adapter(tmp_path, trained(model), base_sha256="b" * 64)
    adapter = adapters.read_adapter(tmp_path)
    assert adapter is not None
    adapter.tensors.popitem()
    with pytest.raises(adapters.AdapterError, match="other layers or sizes"):
        adapter.on(model)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_peft_loads_it(tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer) -> None:
    """Its own code reads our two files and says what our model says."""
    import transformers
    from peft import PeftModel

    save_checkpoint(tmp_path / "base", model, tokenizer, stage="sft", info={})
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    policy = trained(model)
    adapters.save_adapter(tmp_path, policy, base_sha256="b" * 64)
    peft = PeftModel.from_pretrained(theirs, str(tmp_path / "adapter"))
    expected: Tensor = peft(TOKENS).logits
    torch.testing.assert_close(policy(TOKENS), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model(TOKENS), expected, atol=1e-2)
    kept = {name.replace(".default", "") for name, _ in peft.named_parameters() if "lora_" in name}
    assert kept == load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys()
