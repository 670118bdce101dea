"""What a checkpoint of each stage is given to read before it writes.

Before instruction fine-tuning a model knows documents, not conversations: its prompt is the bare
text, after the token that separates documents. From `sft` on it is the chat template.
"""

from __future__ import annotations

from collections.abc import Sequence

from trainer.config import INIT, PRETRAIN
from trainer.engine import Engine, Sampling
from trainer.tokenizer import Message, Tokenizer


def prompt_ids(tokenizer: Tokenizer, messages: Sequence[Message], *, stage: str, room: int) -> list[int]:
    """Ids of the prompt, at most `room` of them; the oldest turns are left out first, whole.

    ValueError when the last message alone does not fit.
    """
    if not messages:
        raise ValueError("There is no message to answer.")
    for first in range(len(messages)):
        kept = messages[first:]
        if stage in (INIT, PRETRAIN):
            text = "\n".join(message["content"] for message in kept)
            ids = [tokenizer.document_end_id, *tokenizer.encode(text)]
        else:
            ids, _ = tokenizer.render_chat(kept, add_generation_prompt=True)
        if len(ids) <= room:
            return ids
    raise ValueError(f"The message is too long for this model: {len(ids)} tokens, and there is room for {room}.")


def greedy_samples(
    engine: Engine, tokenizer: Tokenizer, prompts: Sequence[str], *, stage: str, max_new_tokens: int = 64
) -> list[dict[str, str]]:
    """What the model says to fixed prompts, greedily: the samples shown while it trains."""
    room = max(1, engine.config.context - max_new_tokens)
    ids = [prompt_ids(tokenizer, [{"role": "user", "content": prompt}], stage=stage, room=room) for prompt in prompts]
    how = Sampling(temperature=0.0, max_new_tokens=max_new_tokens)
    completions = engine.generate(ids, [how] * len(ids))
    return [
        {"prompt": prompt, "text": tokenizer.decode(completion.tokens)}
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
