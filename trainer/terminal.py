"""Chat with a checkpoint in the terminal."""

from __future__ import annotations

from pathlib import Path

from trainer.asked import Message
from trainer.config import SFT
from trainer.data.prompting import answer_room, prompt_ids
from trainer.model.checkpoint import load_to_answer
from trainer.model.engine import Engine, EngineService, Sampling


def chat(checkpoint: Path, *, temperature: float, max_new_tokens: int) -> None:
    """Read lines, stream answers; an empty line or Ctrl-D ends it. A line that is too long is not part of the talk."""
    loaded = load_to_answer(checkpoint)
    model, tokenizer = loaded.language_model, loaded.tokenizer
    stage = loaded.info.get("stage", SFT)
    service = EngineService(Engine(model, end_ids=tokenizer.end_ids, is_owner=True))
    room = answer_room(model.config.context, max_new_tokens)
    messages: list[Message] = []
    print(f"Talking to {checkpoint} (stage {stage}). An empty line ends it.")
    try:
        while line := input("> ").strip():
            asked: list[Message] = [*messages, {"role": "user", "content": line}]
            how = Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=len(asked))
            try:
                prompt = prompt_ids(tokenizer, asked, stage=stage, room=room)
            except ValueError as error:
                print(error)
                continue
            request = service.submit(prompt, how)
            stream, pieces = tokenizer.stream(), []
            for token, _ in request.events():
                pieces.append(stream.push(token))
                print(pieces[-1], end="", flush=True)
            pieces.append(stream.finish())
            print(pieces[-1])
            messages = [*asked, {"role": "assistant", "content": "".join(pieces)}]
    except EOFError:
        print()
    finally:
        service.close()
