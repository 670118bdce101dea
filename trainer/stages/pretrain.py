"""Stage 1, pre-training: learn to continue text.

The idea: documents are joined into one stream of tokens and the model learns to predict each token
from those before it. Nothing tells it what a question is; it learns words, grammar, facts and the
habits of the corpus, and then continues whatever it is given.

A batch goes through the model in pieces that fit in memory; their gradients add up to the batch's.

Run it: ``python -m trainer pretrain --preset tiny --from INIT_DIR --out DIR``
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.config import PRETRAIN, PretrainConfig
from trainer.data.documents import DocumentBatches
from trainer.data.prompting import greedy_samples
from trainer.evaluation.text import bits_per_byte
from trainer.lineage import Inputs, stage_info
from trainer.model.checkpoint import load_checkpoint, save_checkpoint
from trainer.model.decoder import LanguageModel
from trainer.model.engine import Engine
from trainer.rl.losses import linear_next_token_loss
from trainer.runtime import machine
from trainer.runtime.estimate import rows_at_once
from trainer.runtime.loop import Metrics, Report, SampleDict, clear_resume, run_steps
from trainer.runtime.optim import apply_gradients, muon_and_adamw, set_lr_factor, warmup_decay


def train(
    config: PretrainConfig, inputs: Inputs, out_dir: Path, report: Report, should_stop: Callable[[], bool]
) -> Path:
    """Pre-train the parent checkpoint on the corpus's documents; returns `out_dir`, now a checkpoint.

    Raises Stopped (resumable), Diverged, or ValueError for unusable inputs.
    """
    assert inputs.parent is not None, "the caller checks that a parent is there"
    device = machine.device()
    parent = load_checkpoint(inputs.parent, device=device)
    model, tokenizer = parent.language_model, parent.tokenizer
    rows = config.batch_tokens // config.sequence
    (out_dir / "resume").mkdir(parents=True, exist_ok=True)
    tokens_file = DocumentBatches.write(out_dir / "resume", inputs.corpus.documents, tokenizer)
    batches = DocumentBatches(tokens_file, sequence=config.sequence, rows=rows, seed=inputs.seed)

    state: dict[str, Any] = {"precision": machine.choose_precision(model.config.width), "figures": {}}
    optimizers = muon_and_adamw(
        model,
        matrix_lr=config.matrix_lr,
        embedding_lr=config.embedding_lr,
        precision=lambda: str(state["precision"]),
    )
    engine = Engine(model, end_ids=tokenizer.end_ids)
    fitting = rows_at_once(model.config, sequence=config.sequence, device=device.type)

    def do_step(step: int) -> Metrics:
        begun = time.perf_counter()
        factor = warmup_decay(step, config.steps, warmup=config.warmup, decay=config.decay)
        set_lr_factor(optimizers, factor)
        loss = add_gradients(model, *batches(step), rows=fitting, precision=state["precision"])
        norm = apply_gradients(model, optimizers.values())
        return {
            "loss": loss.item(),
            "grad_norm": norm,
            "lr": config.matrix_lr * factor,
            "tokens_per_s": config.batch_tokens / (time.perf_counter() - begun),
        }

    def evaluate(_: int) -> tuple[Metrics, list[SampleDict]]:
        state["figures"] = {"bits_per_byte": bits_per_byte(model, tokenizer, inputs.corpus.held_out_documents)}
        samples = greedy_samples(
            engine,
            tokenizer,
            inputs.corpus.sample_prompts,
            stage=PRETRAIN,
            max_new_tokens=inputs.preset.answer_tokens,
        )
        return dict(state["figures"]), [*samples]

    run_steps(
        steps=config.steps,
        out_dir=out_dir,
        modules={"model": model},
        optimizers=optimizers,
        state=state,
        do_step=do_step,
        evaluate=evaluate,
        evaluations=config.evaluations,
        report=report,
        should_stop=should_stop,
    )
    info = stage_info(inputs, parent=parent.info, config=config, state=state, metrics=state["figures"])
    save_checkpoint(out_dir, model, tokenizer, stage=PRETRAIN, info=info)
    clear_resume(out_dir)
    return out_dir


def add_gradients(model: LanguageModel, tokens: Tensor, targets: Tensor, *, rows: int, precision: str) -> Tensor:
    """Add the gradient of the mean next-token loss over tokens and targets, [B, T] each; returns the loss, [].

    At most `rows` rows go forward and backward at a time. The mean of a piece counts by its share of all B rows,
    so that the pieces add up to the mean over the batch.
    """
    weight = model.head_weight
    total = torch.zeros((), device=weight.device)
    for piece, goals in zip(torch.split(tokens, rows), torch.split(targets, rows), strict=True):
        piece, goals = piece.to(weight.device), goals.to(weight.device)
        with torch.autocast(weight.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            hidden = model.decoder(piece).flatten(0, 1)
            loss = linear_next_token_loss(hidden, weight, goals.flatten()) * (len(piece) / len(tokens))
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total
