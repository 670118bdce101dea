"""Stage 2, instruction fine-tuning: learn to answer.

The idea: conversations in the chat template, and a loss on nothing but what the assistant says and
the token that ends its turn. The model keeps what pre-training taught it and learns the form: a
question is followed by its answer, and then one stops.

Conversations are packed several to a row; attention never crosses from one into the next. A batch goes through
the model in microbatches that fit in memory; their gradients add up to the batch's.

Run it: ``python -m trainer sft --preset tiny --from PRETRAIN_DIR --out DIR``
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from trainer.config import SFT, SFTConfig
from trainer.data.chats import ChatBatches, PackedChats
from trainer.data.prompting import greedy_samples
from trainer.evaluation.asking import instruction_accuracy
from trainer.evaluation.visiting import visitor_shares
from trainer.lineage import Inputs, stage_info
from trainer.model.adapters import is_adapted, learning, learnt
from trainer.model.decoder import LanguageModel
from trainer.model.engine import Engine
from trainer.model.starting import start
from trainer.rl.losses import linear_next_token_loss
from trainer.runtime import machine
from trainer.runtime.estimate import rows_at_once
from trainer.runtime.loop import Metrics, Report, SampleDict, clear_resume, run_steps
from trainer.runtime.optim import adamw, apply_gradients, muon_and_adamw, set_lr_factor, warmup_decay


def train(config: SFTConfig, inputs: Inputs, out_dir: Path, report: Report, should_stop: Callable[[], bool]) -> Path:
    """Fine-tune the parent checkpoint on the corpus's conversations; returns `out_dir`, now a checkpoint.

    Raises Stopped (resumable), Diverged, or ValueError for unusable inputs.
    """
    assert inputs.parent is not None, "the caller checks that a parent is there"
    parent = start(inputs.parent, config, seed=inputs.seed, out_dir=out_dir, learns_from_text=True)
    model, tokenizer = parent.prepared(parent.policy()), parent.tokenizer
    batches = ChatBatches(
        inputs.corpus.conversations,
        tokenizer,
        sequence=config.sequence,
        rows=config.batch_tokens // config.sequence,
        seed=inputs.seed,
    )
    if batches.too_long:
        report.log(0, f"{batches.too_long} conversations are longer than {config.sequence} tokens and were left out.")

    state: dict[str, Any] = {"precision": parent.precision, "figures": {}}
    optimizers: Mapping[str, Optimizer]
    if config.adapter_rank or config.matrix_lr == 0:
        optimizers = {"adamw": adamw(learning(model), lr=config.embedding_lr)}
    else:
        optimizers = muon_and_adamw(
            model, matrix_lr=config.matrix_lr, embedding_lr=config.embedding_lr, precision=lambda: parent.precision
        )
    peak_lr = config.embedding_lr if "muon" not in optimizers else config.matrix_lr
    engine = Engine(model, end_ids=tokenizer.end_ids)
    fitting = rows_at_once(model.config, sequence=config.sequence, device=machine.device().type)

    def do_step(step: int) -> Metrics:
        begun = time.perf_counter()
        factor = warmup_decay(step, config.steps, warmup=config.warmup, decay=config.decay)
        set_lr_factor(optimizers, factor)
        chats = batches(step)
        loss = add_gradients(model, chats, rows=fitting, precision=parent.precision)
        norm = apply_gradients(model, optimizers.values())
        return {
            "loss": loss.item(),
            "grad_norm": norm,
            "lr": peak_lr * factor,
            "response_share": chats.is_response.float().mean().item(),
            "tokens_per_s": config.batch_tokens / (time.perf_counter() - begun),
        }

    def evaluate(_: int) -> tuple[Metrics, list[SampleDict]]:
        limit = inputs.preset.answer_tokens
        samples = greedy_samples(engine, tokenizer, inputs.corpus.sample_prompts, stage=SFT, max_new_tokens=limit)
        if questions := inputs.corpus.questions:  # own text may have none: no figure then, rather than 0
            right = instruction_accuracy(engine, tokenizer, questions, stage=SFT, max_new_tokens=limit)
            state["figures"] = {"instruction_accuracy": right, "held_out_questions": len(questions)}
        state["figures"] |= visitor_shares(engine, tokenizer, inputs.corpus.visitors, stage=SFT, max_new_tokens=limit)
        return dict(state["figures"]), [*samples]

    run_steps(
        steps=config.steps,
        out_dir=out_dir,
        modules={"model": learnt(model)},
        optimizers=optimizers,
        state=state,
        do_step=do_step,
        evaluate=evaluate,
        evaluations=config.evaluations,
        report=report,
        should_stop=should_stop,
    )
    info = stage_info(inputs, parent=parent.info, config=config, state=state, metrics=state["figures"])
    parent.save(out_dir, model, stage=SFT, info=info)
    clear_resume(out_dir)
    return out_dir


def add_gradients(model: LanguageModel, chats: PackedChats, *, rows: int, precision: str) -> Tensor:
    """Add the gradient of the mean loss over the response tokens of all rows; returns the loss, [].

    At most `rows` rows go forward and backward at a time. The mean of a microbatch counts by its share of the
    batch's response tokens, so that a token weighs the same whichever it is in.
    """
    weight = model.head_weight
    device, responses = weight.device, int(chats.is_response.sum())
    is_mixed = precision == "bfloat16" and not is_adapted(model)  # a frozen base is in bfloat16 itself
    total = torch.zeros((), device=device)
    for part in chats.split(rows):
        is_response = part.is_response.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=is_mixed):
            hidden = model.decoder(part.inputs.to(device), segments=part.segments.to(device))[is_response]
            targets = part.targets.to(device)[is_response]
            loss = linear_next_token_loss(hidden, weight, targets) * (len(targets) / responses)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total
