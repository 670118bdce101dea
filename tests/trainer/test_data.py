from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer import foreign
from trainer.data import documents as data
from trainer.data.chats import ChatBatches
from trainer.data.documents import DocumentBatches
from trainer.model.tokenizer import Tokenizer
from trainer.runtime.seeds import random_generator

# Words of random letters: wherever the text is cut, no two rows of it are the same.
LETTERS = random.Random(0)
DOCUMENTS = [
    " ".join("".join(LETTERS.choices("abcdefghijklmnoprstuvw", k=LETTERS.randint(3, 8))) for _ in range(12))
    for _ in range(40)
]
CHATS = [
    [{"role": "user", "content": f"How many {i}?"}, {"role": "assistant", "content": f"There are {i}."}]
    for i in range(30)
]


@pytest.fixture
def documents(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    return DocumentBatches.write(tmp_path, DOCUMENTS, tokenizer)


def test_a_document_begins_with_what_its_tokenizer_begins_texts_with(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(foreign.write(tmp_path, "mistral"))
    tokens = np.fromfile(DocumentBatches.write(tmp_path, DOCUMENTS, tokenizer), dtype=np.uint32).tolist()
    begin, end = tokenizer.document_start_ids[0], tokenizer.document_end_id
    assert tokens == [id for text in DOCUMENTS for id in (begin, *tokenizer.encode(text), end)]


def test_it_closes_every_document_with_the_document_end_token(documents: Path, tokenizer: Tokenizer) -> None:
    tokens = DocumentBatches(documents, sequence=16, rows=2, seed=0).tokens.tolist()
    assert tokens.count(tokenizer.document_end_id) == len(DOCUMENTS)
    first_end = tokens.index(tokenizer.document_end_id)
    assert tokenizer.decode(tokens[:first_end]) == DOCUMENTS[0]


def test_it_predicts_the_next_token_of_the_text(documents: Path) -> None:
    batches = DocumentBatches(documents, sequence=16, rows=4, seed=0)
    text = batches.tokens.tolist()
    inputs, targets = batches(3)
    assert inputs.shape == targets.shape == (4, 16)
    for row, goal in zip(inputs.tolist(), targets.tolist(), strict=True):
        assert row[1:] == goal[:-1]
        whole = [*row, goal[-1]]
        assert any(text[i : i + 17] == whole for i in range(len(text) - 16))


def test_it_sees_every_row_once_an_epoch_and_cuts_the_next_epoch_elsewhere(documents: Path) -> None:
    batches = DocumentBatches(documents, sequence=16, rows=1, seed=0)
    epochs = [
        [tuple(batches(epoch * batches.per_epoch + i)[0][0].tolist()) for i in range(batches.per_epoch)]
        for epoch in (0, 1)
    ]
    assert len(set(epochs[0])) == len(set(epochs[1])) == batches.per_epoch
    assert set(epochs[0]).isdisjoint(epochs[1])


def test_a_batch_depends_on_nothing_but_seed_and_step(documents: Path) -> None:
    one, other = (DocumentBatches(documents, sequence=16, rows=2, seed=seed) for seed in (5, 5))
    for step in range(7):  # one is read from the start, the other only here
        batch = one(step)
    assert torch.equal(batch[0], other(6)[0])
    assert not torch.equal(batch[0], DocumentBatches(documents, sequence=16, rows=2, seed=6)(6)[0])


def test_it_writes_the_same_ids_however_many_documents_it_encodes_at_once(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [*DOCUMENTS, "A control token spelled out: <|im_end|>.", "", "The last."]
    ids = [token for text in texts for token in [*tokenizer.encode(text), tokenizer.document_end_id]]
    for together in (1, 7, len(texts), 1000):
        monkeypatch.setattr(data, "DOCUMENTS_AT_ONCE", together)
        folder = tmp_path / str(together)
        folder.mkdir()
        assert np.fromfile(DocumentBatches.write(folder, texts, tokenizer), dtype=np.uint32).tolist() == ids


def test_it_encodes_a_text_once_and_never_takes_another_ones_ids(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = DocumentBatches.write(tmp_path, DOCUMENTS, tokenizer)
    encode = Tokenizer.encode_documents
    calls: list[int] = []

    def counted(self: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
        calls.append(len(texts))
        return encode(self, texts)

    monkeypatch.setattr(Tokenizer, "encode_documents", counted)
    assert DocumentBatches.write(tmp_path, DOCUMENTS, tokenizer) == first
    assert calls == []
    joined = ["".join(DOCUMENTS[:2]), *DOCUMENTS[2:]]  # the same letters, and other documents
    assert DocumentBatches.write(tmp_path, joined, tokenizer) != first
    assert calls


def test_it_shuffles_an_epoch_once(documents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = DocumentBatches(documents, sequence=16, rows=4, seed=0)
    assert batches.per_epoch % 4 != 0  # a step that begins in one epoch and ends in the next
    steps = 3 * batches.per_epoch // 4
    anew = [DocumentBatches(documents, sequence=16, rows=4, seed=0)(step)[0] for step in range(steps)]
    drawn: list[object] = []

    def counted(seed: int, *purpose: int | str) -> torch.Generator:
        drawn.append(purpose)
        return random_generator(seed, *purpose)

    monkeypatch.setattr(data, "random_generator", counted)
    for step in range(steps):
        assert torch.equal(batches(step)[0], anew[step])
    assert drawn == [("documents", 0), ("documents", 1), ("documents", 2)]


def test_it_says_when_there_is_too_little_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    few = DocumentBatches.write(tmp_path, ["Short."], tokenizer)
    with pytest.raises(ValueError, match="Add text"):
        DocumentBatches(few, sequence=64, rows=1, seed=0)


def test_it_packs_whole_conversations_and_keeps_them_apart(tokenizer: Tokenizer) -> None:
    chats = ChatBatches(CHATS, tokenizer, sequence=64, rows=2, seed=0)
    batch = chats(0)
    whole = {tuple(tokenizer.render_chat(chat)[0]) for chat in CHATS}
    for inputs, targets, segments in zip(batch.inputs, batch.targets, batch.segments, strict=True):
        ids = [*inputs.tolist(), int(targets[-1])]
        for segment in range(int(segments.max())):  # the last number is padding, or a conversation cut by one
            piece = [i for i, s in zip(ids, segments.tolist(), strict=False) if s == segment]
            assert tuple(piece) in whole


def test_its_targets_are_exactly_the_responses(tokenizer: Tokenizer) -> None:
    chats = ChatBatches(CHATS, tokenizer, sequence=64, rows=2, seed=0)
    batch = chats(1)
    for targets, is_response in zip(batch.targets, batch.is_response, strict=True):
        said = tokenizer.backend.decode(targets[is_response].tolist(), skip_special_tokens=False)
        answers = said.split("<|im_end|>")
        assert answers.pop() == ""
        assert answers
        assert all(answer in {chat[1]["content"] for chat in CHATS} for answer in answers)


def test_it_serves_every_conversation_once_an_epoch(tokenizer: Tokenizer) -> None:
    chats = ChatBatches(CHATS, tokenizer, sequence=64, rows=1, seed=0)
    served = [index for row in chats._plan(0) for index in row]
    assert sorted(served) == list(range(len(CHATS)))
    assert chats._plan(0) != chats._plan(1)


def test_it_leaves_out_what_does_not_fit_and_counts_it(tokenizer: Tokenizer) -> None:
    long = [{"role": "user", "content": "x " * 200}, {"role": "assistant", "content": "y"}]
    assert ChatBatches([*CHATS, long], tokenizer, sequence=64, rows=1, seed=0).too_long == 1
    with pytest.raises(ValueError, match="None of the 1 conversations fits 64 tokens"):
        ChatBatches([long], tokenizer, sequence=64, rows=1, seed=0)
