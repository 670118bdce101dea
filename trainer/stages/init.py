"""Stage 0, random init: a tokenizer learnt from the corpus and a model whose weights are noise.

The checkpoint can already be chatted with. It says nothing: every token is about as likely as any
other, which is exactly what the other stages have to change.

Run it: ``python -m trainer init --preset tiny --out DIR``
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

from trainer.config import INIT, to_dict
from trainer.evaluation.text import bits_per_byte
from trainer.lineage import Inputs, stage_info
from trainer.model.checkpoint import save_checkpoint
from trainer.model.decoder import LanguageModel
from trainer.model.tokenizer import Tokenizer
from trainer.runtime.loop import Report
from trainer.runtime.seeds import random_generator


def train(config: None, inputs: Inputs, out_dir: Path, report: Report, should_stop: Callable[[], bool]) -> Path:
    """Write the random checkpoint to `out_dir` and return it. Seconds long, so it never stops half-way."""
    started = time.monotonic()
    report.start(0, 1)
    corpus, shape = inputs.corpus, inputs.preset.model
    chats = [message["content"] for conversation in corpus.conversations for message in conversation]
    tokenizer = Tokenizer.train([*corpus.documents, *chats], shape.vocab_size)
    shape = dataclasses.replace(shape, vocab_size=tokenizer.vocab_size)
    model = LanguageModel(shape)
    model.init_weights(random_generator(inputs.seed, "init"))
    report(1, {"parameters": float(shape.parameters), "vocabulary": float(tokenizer.vocab_size)})
    metrics = {"bits_per_byte": bits_per_byte(model, tokenizer, corpus.held_out_documents)}
    state = {"seconds": time.monotonic() - started}
    info = stage_info(inputs, parent={}, config=to_dict(shape), state=state, metrics=metrics)
    return save_checkpoint(out_dir, model, tokenizer, stage=INIT, info=info)
