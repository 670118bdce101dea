"""A saved directory is a Hugging Face model: transformers (5.x) must agree with us on every number."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from trainer.model.checkpoint import load_checkpoint, save_checkpoint
from trainer.model.decoder import LanguageModel, ScalarModel
from trainer.model.engine import Engine, Sampling
from trainer.model.tokenizer import Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

CHAT = [{"role": "user", "content": "What does a fox eat?"}]


@pytest.fixture
def saved(model: LanguageModel, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "sft", model, tokenizer, stage="sft", info={})


def test_transformers_computes_the_same_logits(saved: Path, model: LanguageModel) -> None:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
    tokens = torch.randint(model.config.vocab_size, (3, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens), atol=1e-4, rtol=1e-4)


def test_transformers_generates_the_same_tokens_greedily(
    saved: Path, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
    prompt, _ = tokenizer.render_chat(CHAT, add_generation_prompt=True)
    out = theirs.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False, max_new_tokens=24
    )
    engine = Engine(model, end_ids=[tokenizer.end_id, tokenizer.document_end_id])
    [ours] = engine.generate([prompt], [Sampling(temperature=0.0, max_new_tokens=24)])
    assert ours.tokens == out[0, len(prompt) :].tolist()


def test_transformers_renders_a_chat_to_the_same_ids(saved: Path, tokenizer: Tokenizer) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(saved)
    for prompt in (True, False):
        chat = CHAT if prompt else [*CHAT, {"role": "assistant", "content": "Mice, 12 a day."}]
        ids = theirs.apply_chat_template(chat, add_generation_prompt=prompt, return_dict=False)
        assert ids == tokenizer.render_chat(chat, add_generation_prompt=prompt)[0]


def test_transformers_scores_with_a_reward_model_as_we_do(
    model: LanguageModel, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    scalar = ScalarModel.from_language_model(model, generator=torch.Generator().manual_seed(0))
    save_checkpoint(tmp_path, scalar, tokenizer, stage="reward", info={})
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = torch.tensor([[5, 6, 7, 8, 9, tokenizer.end_id]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits[0, 0], scalar(tokens)[0, -1], atol=1e-4, rtol=1e-4)


def test_a_model_made_by_transformers_loads_here(tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(config)
    theirs.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        ours = load_checkpoint(tmp_path).language_model(tokens)
        torch.testing.assert_close(ours, theirs(tokens).logits, atol=1e-4, rtol=1e-4)
