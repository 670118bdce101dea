"""What `manage.py bench_scale` measures on: a scratch database as full as a site's after so many votes.

The idea: rows go in past the models (COPY on PostgreSQL, executemany on SQLite), in the shapes a busy site has
after a year: many voters with a few dozen votes each, a quarter of the pairs between two checkpoints, some offered
in chats, some shown to three people, some shown twice to one, some voted on by a simulated voter, answers of two or
three sentences. What does not grow on a real site does not grow here: the checkpoints, and the pairs in stock.

`fill` goes on from what is there, so that one database is measured at 1,000 votes, then at 100,000, then at more.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db import connection, models, transaction
from django.utils import timezone

from trainer.config import GRPO, INIT, PPO, PRETRAIN, REWARD, SFT
from webapp.accounts.models import User, Visitor
from webapp.answers.models import Generation
from webapp.arena import tally
from webapp.arena.models import Pair, Prompt, Vote
from webapp.chat.models import Conversation, Message
from webapp.checkpoints.models import Checkpoint

SPAN = timedelta(days=365)
PROMPTS: Final = 200
VOTES_A_PROMPT_OF_A_CHAT: Final = 500
"""Of so many votes, one author of a chat agreed that others may be asked the same."""
VOTES_A_VOTER: Final = 50
SIMULATED_SHARE: Final = 0.15
CHAT_SHARE: Final = 0.15
VERSUS_SHARE: Final = 0.25
OVERLAP_SHARE: Final = 0.1
OVERLAP_VOTES: Final = 3
REPEAT_SHARE: Final = 0.07
STOCK: Final = 64
"""Pairs that wait for their first vote, whatever the number of votes."""
READER_VOTES: Final = 200
"""What the person whose pages are measured has voted."""
NOT_LEARNT: Final = 400
"""The newest votes, which no reward model has learnt from."""
BATCH: Final = 2_000

CHOICES: Final = ("a", "b", "tie", "both_bad", "skip")
CHANCES: Final = (0.37, 0.36, 0.15, 0.08, 0.04)
WORDS: Final = (
    *("a", "harbour", "shelters", "ships", "from", "the", "wind", "so", "people", "load", "them", "while", "tide"),
    *("is", "high", "for", "example", "boats", "wait", "until", "storm", "has", "passed", "and", "market", "opens"),
    *("early", "with", "bread", "fish", "lamps", "paper", "rope", "salt"),
)


@dataclass
class Scene:
    """What every fill refers to, and where the last one ended."""

    checkpoints: list[Checkpoint]
    prompts: list[Prompt]
    reader: Visitor
    owner: User
    votes: int = 0
    voters: list[uuid.UUID] = field(default_factory=list)
    rng: random.Random = field(default_factory=lambda: random.Random(12))

    @property
    def writers(self) -> list[Checkpoint]:
        return [one for one in self.checkpoints if one.stage not in (INIT, REWARD)]

    @property
    def learner(self) -> Checkpoint:
        return self.checkpoints[-1]

    @property
    def reward_model(self) -> Checkpoint:
        return [one for one in self.checkpoints if one.stage == REWARD][-1]

    def uuid(self) -> uuid.UUID:
        return uuid.UUID(int=self.rng.getrandbits(128), version=4)


def make_scene() -> Scene:
    """Three rounds of checkpoints, the prompts, a reader and an owner."""
    line: list[Checkpoint] = []
    for number, stage in enumerate((INIT, PRETRAIN, *(SFT, REWARD, PPO, GRPO) * 3)):
        line.append(
            Checkpoint.objects.create(
                stage=stage,
                preset="tiny",
                name=f"{stage} {number}",
                directory=f"{stage}-{number}",
                weights_sha256=f"{number:064x}",
                parent=line[-1] if line else None,
                parameters=2_000_000,
                bytes=8_000_000,
            )
        )
    prompts = [
        Prompt.objects.create(text=f"{_sentence(random.Random(n), 7)}, and why is it number {n}?", source="shipped")
        for n in range(PROMPTS)
    ]
    owner = User.objects.create_superuser(username="bench", password=None)
    return Scene(checkpoints=line, prompts=prompts, reader=Visitor.objects.create(), owner=owner)


def fill(scene: Scene, *, votes: int) -> None:
    """Add rows until there are so many votes."""
    wanted = votes - scene.votes
    assert wanted > 0, "sizes are measured in ascending order"
    now = timezone.now()
    with transaction.atomic():
        if scene.votes == 0:
            _write(_stock(scene, now))
        _add_voters(scene, votes)
        _add_prompts(scene, votes)
        _write(_voted(scene, count=wanted, now=now))
    scene.votes = votes
    with connection.cursor() as cursor:
        # What autovacuum would have done by the time a real site has so many. Nothing can be tidied up inside a
        # transaction, but the planner must know what is there: else it may join answers row by row, for minutes.
        if connection.vendor == "postgresql":
            cursor.execute("ANALYZE" if connection.in_atomic_block else "VACUUM ANALYZE")
    _learn(scene)
    tally.rebuild()  # the rows went in past what keeps it


def _learn(scene: Scene) -> None:
    """The newest reward model has learnt from all that it may, but for the newest votes."""
    newest = Vote.objects.order_by("-pk").values_list("pk", flat=True)[NOT_LEARNT : NOT_LEARNT + 1]
    for edge in newest:
        Vote.objects.for_training().filter(pk__lt=edge, learnt_by=None).update(learnt_by=scene.reward_model)


def _add_voters(scene: Scene, votes: int) -> None:
    missing = max(12, votes // VOTES_A_VOTER) - len(scene.voters)
    added = [scene.uuid() for _ in range(missing)]
    _copy(Visitor, ({"id": one, "created_at": timezone.now()} for one in added))
    scene.voters += added


def _add_prompts(scene: Scene, votes: int) -> None:
    there = len(scene.prompts)
    wanted = PROMPTS + votes // VOTES_A_PROMPT_OF_A_CHAT
    texts = [f"{_sentence(scene.rng, 9)}, says visitor {n}?" for n in range(there, wanted)]
    Prompt.objects.add(texts, source=Prompt.Source.CHAT)
    scene.prompts += Prompt.objects.with_texts(texts)


Row = tuple[type[models.Model], dict[str, Any]]


def _stock(scene: Scene, now: datetime) -> Iterator[Row]:
    """Ready pairs nobody has voted on."""
    for number in range(STOCK):
        versus = number % 4 == 0
        couple = scene.rng.sample(scene.writers[-4:], 2) if versus else [scene.learner] * 2
        yield from _pair(scene, couple, scene.rng.choice(scene.prompts), now - timedelta(minutes=1), is_open=True)[1]


def _voted(scene: Scene, *, count: int, now: datetime) -> Iterator[Row]:
    """`count` votes in the order of time, each pair's beside one another, and everything they are about."""
    rng, made, voter = scene.rng, 0, 0
    simulated = [scene.uuid() for _ in range(3)]
    yield from ((Visitor, {"id": one, "created_at": now}) for one in simulated)
    reader_every = max(1, count // READER_VOTES) if scene.votes == 0 else 0
    while made < count:
        time = now - SPAN * (1 - made / count) - timedelta(minutes=5)
        kind = rng.random()
        voter = (voter + 1) % len(scene.voters)
        own = scene.voters[voter]
        if reader_every and made % reader_every == 0:
            own = scene.reader.pk
        if kind < SIMULATED_SHARE:
            own = rng.choice(simulated)
        in_chat = not kind < SIMULATED_SHARE and rng.random() < CHAT_SHARE
        if rng.random() < VERSUS_SHARE and not in_chat:
            couple = rng.sample(scene.writers, 2)
        else:
            couple = [rng.choice([*scene.writers[-4:], scene.learner])] * 2
        wanted = OVERLAP_VOTES if rng.random() < OVERLAP_SHARE and not in_chat else 1
        prompt = None if in_chat else rng.choice(scene.prompts)
        owner = own if in_chat or kind < SIMULATED_SHARE else None
        pair, rows = _pair(scene, couple, prompt, time, wanted_votes=wanted, owner_id=owner, from_chat=in_chat)
        yield from rows
        if in_chat:
            yield from _chat(scene, pair, rows, own, time)
        voters = [own, *(rng.choice(scene.voters) for _ in range(wanted - 1))]
        for one in dict.fromkeys(voters):
            yield _vote(scene, pair, one, time, simulated=kind < SIMULATED_SHARE)
            made += 1
        if owner is None and rng.random() < REPEAT_SHARE:
            generations = [row["id"] for model, row in rows if model is Generation]
            repeat = {
                **next(row for model, row in rows if model is Pair),
                "id": scene.uuid(),
                "a_id": generations[1],
                "b_id": generations[0],
                "owner_id": own,
                "repeat_of_id": pair,
                "wanted_votes": 1,
            }
            yield Pair, repeat
            yield _vote(scene, repeat["id"], own, time + timedelta(minutes=3), simulated=False)
            made += 1


def _pair(
    scene: Scene, couple: Sequence[Checkpoint], prompt: Prompt | None, time: datetime, **fields: Any
) -> tuple[uuid.UUID, list[Row]]:
    rng = scene.rng
    question = prompt.text if prompt else f"{_sentence(rng, 8)}, number {rng.getrandbits(20)}?"
    answers: list[Row] = [
        (
            Generation,
            {
                "id": scene.uuid(),
                "checkpoint_id": checkpoint.pk,
                "messages": [{"role": "user", "content": question}],
                "sampling": {"temperature": 1.0, "max_new_tokens": 96, "seed": rng.getrandbits(31)},
                "state": "done",
                "text": f"{_sentence(rng, rng.randint(20, 50))}.",
                "finish_reason": "end",
                "tokens": 60,
                "created_at": time,
                "first_token_at": time,
                "finished_at": time,
            },
        )
        for checkpoint in couple
    ]
    pair = scene.uuid()
    row = {
        "id": pair,
        "prompt_id": prompt.pk if prompt else None,
        "kind": "self" if couple[0] == couple[1] else "versus",
        "state": "ready",
        "a_id": answers[0][1]["id"],
        "b_id": answers[1][1]["id"],
        "is_open": False,
        "created_at": time,
        **fields,
    }
    return pair, [*answers, (Pair, row)]


def _chat(scene: Scene, pair: uuid.UUID, rows: list[Row], visitor: uuid.UUID, time: datetime) -> Iterator[Row]:
    """The conversation a pair was offered in."""
    chat, question = scene.uuid(), scene.uuid()
    generations = [row for model, row in rows if model is Generation]
    asked = generations[0]["messages"][0]["content"]
    yield (
        Conversation,
        {
            "id": chat,
            "visitor_id": visitor,
            "checkpoint_id": generations[0]["checkpoint_id"],
            "title": asked[:120],
            "created_at": time,
            "updated_at": time,
        },
    )
    yield (
        Message,
        {"id": question, "conversation_id": chat, "role": "user", "text": asked, "created_at": time},
    )
    for side, generation in zip("AB", generations, strict=True):
        yield (
            Message,
            {
                "id": scene.uuid(),
                "conversation_id": chat,
                "parent_id": question,
                "role": "assistant",
                "generation_id": generation["id"],
                "side": side,
                "chosen": side == "A",
                "created_at": time,
            },
        )


def _vote(scene: Scene, pair: uuid.UUID, visitor: uuid.UUID, time: datetime, *, simulated: bool) -> Row:
    (choice,) = scene.rng.choices(CHOICES, CHANCES)
    return (
        Vote,
        {
            "pair_id": pair,
            "visitor_id": visitor,
            "choice": choice,
            "source": "simulated" if simulated else "human",
            "taste": "shorter" if simulated else "",
            "reasons": ["short"] if not simulated and scene.rng.random() < 0.1 else [],
            "created_at": time,
            "revealed_at": time,
        },
    )


def _sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words)).capitalize()


# -- past the models -------------------------------------------------------------------------------


def _write(rows: Iterable[Row]) -> None:
    """Insert rows of several models in batches, each model's in the order they come, referred ones first."""
    order = (Visitor, Generation, Pair, Conversation, Message, Vote)
    waiting: dict[type[models.Model], list[dict[str, Any]]] = {model: [] for model in order}

    def flush() -> None:
        for model in order:
            _copy(model, waiting[model])
            waiting[model].clear()

    for model, row in rows:
        waiting[model].append(row)
        if len(waiting[Vote]) >= BATCH:
            flush()
    flush()


def _copy(model: type[models.Model], rows: Iterable[dict[str, Any]]) -> None:
    """Insert rows given by column, the rest from the model's defaults. Quicker than any bulk_create."""
    fields = [one for one in model._meta.concrete_fields if not isinstance(one, models.AutoField)]
    columns = [one.attname for one in fields]
    defaults = [one.get_default() for one in fields]
    prepare = [_prepare(one) for one in fields]
    values = [
        [prepared(row.get(name, default)) for name, default, prepared in zip(columns, defaults, prepare, strict=True)]
        for row in rows
    ]
    table = connection.ops.quote_name(model._meta.db_table)
    names = ", ".join(connection.ops.quote_name(str(one.column)) for one in fields)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            with cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
                for row in values:
                    copy.write_row(row)
        else:
            cursor.executemany(f"INSERT INTO {table} ({names}) VALUES ({', '.join(['%s'] * len(fields))})", values)


def _prepare(one: models.Field[Any, Any]) -> Callable[[Any], Any]:
    """How a column's value is written."""
    target: models.Field[Any, Any] = one
    while isinstance(target, models.ForeignKey):
        target = target.target_field
    sqlite = connection.vendor == "sqlite"
    if isinstance(target, models.JSONField):
        return json.dumps
    if isinstance(target, models.UUIDField):
        return lambda value: value and (value.hex if sqlite else str(value))
    if isinstance(target, models.DateTimeField):
        return lambda value: (
            value and value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f" if sqlite else "%Y-%m-%d %H:%M:%S.%f+00")
        )
    return lambda value: value
