"""A checkpoint leaves as it came, as a GGUF file, or as the adapter it learnt."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gguf
import peft
import pytest
import torch
import transformers
from django.core.management import CommandError, call_command
from safetensors.torch import load_file, save_file

from tests.trainer.gguf_files import byte_level, small_model, smollm_splitter, write_file
from trainer.model.gguf import convert
from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.sources import import_source

pytestmark = pytest.mark.django_db

IDS = torch.arange(3, 23).reshape(1, 20)


@pytest.fixture(autouse=True)
def _own_store(settings: Any, tmp_path: Path) -> None:
    settings.DATA_DIR = tmp_path / "data"
    settings.CHECKPOINT_DIR = settings.DATA_DIR / "checkpoints"
    settings.CHECKPOINT_DIR.mkdir(parents=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory from elsewhere."""
    path = tmp_path_factory.mktemp("gguf") / "fox.gguf"
    small = small_model("llama", num_hidden_layers=1, hidden_size=64, intermediate_size=64, tie_word_embeddings=True)
    return convert(write_file(path, small, byte_level(smollm_splitter())), path.parent / "fox")


@pytest.fixture
def directory(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "fox"))


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "stage.json"}


def test_what_is_imported_and_exported_again_is_as_it_came(directory: Path, tmp_path: Path) -> None:
    (directory / "LICENSE").write_text("Apache")
    (directory / "merges.txt").write_text("a b")
    checkpoint = import_source(str(directory))
    call_command("export_checkpoint", checkpoint.pk, tmp_path / "out")
    assert content(tmp_path / "out") == content(directory)


def test_shards_stay_shards(directory: Path, tmp_path: Path) -> None:
    transformers.AutoModelForCausalLM.from_pretrained(directory).save_pretrained(
        tmp_path / "few", max_shard_size="90KB"
    )
    (directory / "model.safetensors").unlink()
    shards = [*(tmp_path / "few").glob("model-*.safetensors"), tmp_path / "few" / "model.safetensors.index.json"]
    assert len(shards) > 2
    for path in shards:
        shutil.copy(path, directory)
    checkpoint = import_source(str(directory))
    call_command("export_checkpoint", checkpoint.pk, tmp_path / "out")
    assert content(tmp_path / "out") == content(directory)


def test_a_gguf_file_holds_the_same_tensors(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = import_source(str(directory))
    call_command("export_checkpoint", checkpoint.pk, gguf=tmp_path / "out.gguf", dtype="bfloat16")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    (embedding,) = (tensor for tensor in reader.tensors if tensor.name == "token_embd.weight")
    known = load_file(directory / "model.safetensors")["model.embed_tokens.weight"]
    found = torch.tensor(gguf.quants.dequantize(embedding.data, embedding.tensor_type))
    assert torch.equal(found.reshape(known.shape), known.to(torch.bfloat16).float())
    assert f"to {tmp_path / 'out.gguf'}." in capsys.readouterr().out
    again = import_source(str(tmp_path / "out.gguf"))
    assert (again.name, again.licence, again.parameters) == ("Small Fox", "apache-2.0", checkpoint.parameters)
    with pytest.raises(CommandError, match="exists already"):
        call_command("export_checkpoint", checkpoint.pk, gguf=tmp_path / "out.gguf")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's of transformers
def test_an_adapter_leaves_as_peft_has_it(directory: Path, tmp_path: Path) -> None:
    """Written by peft, kept through a copy into the store, exported, and loaded by peft."""
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_pretrained(directory)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    taught = peft.get_peft_model(base, config)
    wanted = taught(IDS).logits
    taught.save_pretrained(directory / "adapter")
    assert not torch.allclose(wanted, transformers.AutoModelForCausalLM.from_pretrained(directory)(IDS).logits)

    checkpoint = import_source(str(directory))
    call_command("export_checkpoint", checkpoint.pk, tmp_path / "out", adapter=True)

    assert set(content(tmp_path / "out")) == {"adapter_config.json", "adapter_model.safetensors"}
    plain = transformers.AutoModelForCausalLM.from_pretrained(directory)
    assert torch.equal(peft.PeftModel.from_pretrained(plain, tmp_path / "out")(IDS).logits, wanted)


def test_what_has_no_adapter_says_so(directory: Path, tmp_path: Path) -> None:
    checkpoint = import_source(str(directory))
    with pytest.raises(CommandError, match="has no adapter: all of its weights were trained"):
        call_command("export_checkpoint", checkpoint.pk, tmp_path / "out", adapter=True)
    assert not (tmp_path / "out").exists()


def test_where_to_must_be_said(directory: Path, tmp_path: Path) -> None:
    checkpoint = import_source(str(directory))
    with pytest.raises(CommandError, match="Name the directory to write to"):
        call_command("export_checkpoint", checkpoint.pk)
    with pytest.raises(CommandError, match="Name the directory to write to"):
        call_command("export_checkpoint", checkpoint.pk, adapter=True, gguf=tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_numbers_that_float16_cannot_hold_are_refused_and_nothing_is_written(directory: Path, tmp_path: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    tensors["model.embed_tokens.weight"][0, 0] = 1e6
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    checkpoint = import_source(str(directory))
    with pytest.raises(CommandError, match="holds numbers that float16 cannot"):
        call_command("export_checkpoint", checkpoint.pk, gguf=tmp_path / "out.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "fox"]
    assert Checkpoint.objects.count() == 1
