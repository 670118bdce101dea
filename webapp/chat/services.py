"""Everything that writes conversations. A turn is added, never replaced."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import ProtectedError, QuerySet
from django.utils import timezone

from trainer.config import GRPO, PPO, SFT
from webapp.accounts.models import Visitor
from webapp.answers.models import Generation
from webapp.answers.services import draw_seed, start_generation
from webapp.chat.models import Conversation, Message
from webapp.chat.threads import Tree, are_the_same
from webapp.checkpoints.models import Checkpoint

DEFAULT_SAMPLING: dict[str, Any] = {
    "temperature": 0.8,
    "top_k": 0,
    "top_p": 0.95,
    "max_new_tokens": 200,
    "seed": None,
}
"""A new conversation's settings; no seed means a new one for every answer."""

OFFER_TWO_EVERY = 3
"""One turn in this many offers two answers to choose between."""
OFFER_TWO_STAGES = (SFT, PPO, GRPO)
"""Before instruction fine-tuning there is no answer to prefer."""
TITLE_CHARS = 60
HISTORY_TURNS, HISTORY_CHARS = 24, 20_000
"""How much of a conversation goes with a question, at most: every answer keeps its own copy of it."""
MOVED_ON = (
    "Not sent: this conversation has gone on elsewhere, perhaps in another tab. "
    "Copy your text, reload the page, then send it."
)


class ChatRefused(ValueError):
    """What was asked for makes no sense right now; the message says why and what to do."""


# -- starting ------------------------------------------------------------------------------------


@transaction.atomic
def begin_conversation(
    *, visitor: Visitor, checkpoint: Checkpoint, text: str, sampling: Mapping[str, Any] | None = None
) -> Conversation:
    """A new chat with its first message, already being answered."""
    conversation = Conversation.objects.create(
        visitor=visitor,
        checkpoint=checkpoint,
        title=title_of(text),
        sampling={**DEFAULT_SAMPLING, **(sampling or {})},
    )
    _answer(conversation, [_add_question(conversation, parent=None, text=text)])
    return conversation


@transaction.atomic
def ask_checkpoints(
    *, visitor: Visitor, checkpoints: Sequence[Checkpoint], text: str, sampling: Mapping[str, Any] | None = None
) -> Conversation:
    """One prompt answered by several checkpoints at once, with the same settings and the same seed."""
    if not checkpoints:
        raise ChatRefused("There is no checkpoint to ask yet.")
    conversation = Conversation.objects.create(
        visitor=visitor,
        kind=Conversation.Kind.COMPARE,
        checkpoint=checkpoints[-1],
        title=title_of(text),
        sampling={**DEFAULT_SAMPLING, **(sampling or {})},
    )
    if conversation.sampling["seed"] is None:
        conversation.sampling["seed"] = draw_seed()
    question = _add_question(conversation, parent=None, text=text)
    for checkpoint in checkpoints:
        _add_answer(conversation, question, _messages([question]), checkpoint=checkpoint)
    _read_on_from(conversation, question)
    return conversation


def title_of(text: str) -> str:
    """The start of a message, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= TITLE_CHARS else line[: TITLE_CHARS - 1].rstrip() + "…"


# -- turns ---------------------------------------------------------------------------------------


@transaction.atomic
def send_message(
    *,
    conversation: Conversation,
    text: str,
    checkpoint: Checkpoint | None = None,
    sampling: Mapping[str, Any] | None = None,
    offer_two: bool | None = None,
    shown_leaf: uuid.UUID | None = None,
) -> Message:
    """Add the person's message after the leaf and have it answered, once or twice.

    `checkpoint` and `sampling` are kept for the turns to come; `offer_two` overrules
    `offers_two_answers`. Refused while an answer is being written or a choice between two is open, and
    when the leaf is no longer `shown_leaf`, the last turn the writer saw.
    """
    tree = _locked_tree(conversation)
    if shown_leaf is not None and shown_leaf != conversation.leaf_id:
        raise ChatRefused(MOVED_ON)
    _check_nothing_open(tree)
    _keep_settings(conversation, checkpoint, sampling)
    path = tree.path()
    question = _add_question(conversation, parent=path[-1] if path else None, text=text)
    _answer(conversation, [*path, question], offer_two=offer_two)
    return question


@transaction.atomic
def edit_message(*, message: Message, text: str) -> Message:
    """Ask differently: a sibling of the person's own message, answered; the old branch stays."""
    if message.role != Message.Role.USER:
        raise ChatRefused("Only your own messages can be edited.")
    conversation = message.conversation
    tree = _locked_tree(conversation)
    _check_nothing_open(tree)
    question = _add_question(conversation, parent=message.parent, text=text)
    _answer(conversation, [*tree.path_to(message)[:-1], question])
    return question


@transaction.atomic
def regenerate_answer(
    *, message: Message, checkpoint: Checkpoint | None = None, sampling: Mapping[str, Any] | None = None
) -> Message:
    """Another answer to the same question; `checkpoint` and `sampling` are kept for the turns to come."""
    _keep_settings(message.conversation, checkpoint, sampling)
    return _add_alternative(message, continued=False)


@transaction.atomic
def continue_answer(*, message: Message) -> Message:
    """A longer version of an answer that was stopped or cut off; the short one stays beside it."""
    generation = message.generation
    if generation is None or generation.finish_reason not in ("stopped", "length") or not generation.text:
        raise ChatRefused("Only an answer that was stopped or cut off can be continued.")
    return _add_alternative(message, continued=True)


def _add_alternative(message: Message, *, continued: bool) -> Message:
    conversation = message.conversation
    question = message.parent
    if message.role != Message.Role.ASSISTANT or question is None:
        raise ChatRefused("Only an answer can be written again.")
    tree = _locked_tree(conversation)
    _check_nothing_open(tree)
    messages = _messages(tree.path_to(question))
    if continued:
        messages.append({"role": "assistant", "content": message.content})
    # What continues a text must come from the model that began it.
    checkpoint = message.generation.checkpoint if continued and message.generation else conversation.checkpoint
    number = question.children.count()
    answer = _add_answer(conversation, question, messages, checkpoint=checkpoint, number=number)
    _read_on_from(conversation, answer)
    return answer


def offers_two_answers(*, conversation: Conversation, turn: int) -> bool:
    """Whether the answer to the `turn`-th question (from 1) comes twice, for the person to choose.

    The same for the same conversation and turn, and different between conversations, so that also
    those who ask only once are sometimes asked what they prefer.
    """
    if conversation.checkpoint.stage not in OFFER_TWO_STAGES:
        return False
    if conversation.sampling.get("temperature") == 0 or conversation.sampling.get("top_k") == 1:
        return False  # both would be the likeliest answer
    return (conversation.pk.int + turn) % OFFER_TWO_EVERY == 0


def _answer(conversation: Conversation, path: list[Message], *, offer_two: bool | None = None) -> None:
    """Have the last message of `path` answered, and read on from there."""
    question, turn = path[-1], sum(message.role == Message.Role.USER for message in path)
    if offer_two is None:
        offer_two = offers_two_answers(conversation=conversation, turn=turn)
    messages = _messages(path)
    if offer_two:
        # The coin decides which of the two seeds is called A; both are otherwise alike.
        for side, number in zip("AB", secrets.choice(((0, 1), (1, 0))), strict=True):
            _add_answer(conversation, question, messages, checkpoint=conversation.checkpoint, side=side, number=number)
        _read_on_from(conversation, question)
    else:
        answer = _add_answer(conversation, question, messages, checkpoint=conversation.checkpoint)
        _read_on_from(conversation, answer)


def _add_question(conversation: Conversation, *, parent: Message | None, text: str) -> Message:
    text = text.strip()
    if not text:
        raise ChatRefused("Write something first.")
    if len(text) > settings.MESSAGE_MAX_CHARS:
        raise ChatRefused(f"That is {len(text):,} characters; a message may have {settings.MESSAGE_MAX_CHARS:,}.")
    return Message.objects.create(conversation=conversation, parent=parent, role=Message.Role.USER, text=text)


def _add_answer(
    conversation: Conversation,
    question: Message,
    messages: list[dict[str, str]],
    *,
    checkpoint: Checkpoint,
    side: str = "",
    number: int = 0,
) -> Message:
    """An answer on its way. `number` counts the alternatives, so that a fixed seed does not repeat the first one."""
    sampling = dict(conversation.sampling)
    if sampling.get("seed") is None:
        sampling["seed"] = draw_seed()
    else:
        sampling["seed"] = (sampling["seed"] + number) % 2**31
    generation = start_generation(
        checkpoint=checkpoint, messages=messages, sampling=sampling, visitor=conversation.visitor
    )
    return Message.objects.create(
        conversation=conversation,
        parent=question,
        role=Message.Role.ASSISTANT,
        generation=generation,
        side=side,
    )


def _messages(path: Sequence[Message]) -> list[dict[str, str]]:
    """What the model is told: the newest turns, from a person's on. Answers that failed before a word are left out."""
    told: list[dict[str, str]] = []
    chars = 0
    for message in reversed(path):
        chars += len(message.content)
        if told and (len(told) == HISTORY_TURNS or chars > HISTORY_CHARS):
            break
        if message.content:
            told.insert(0, {"role": message.role, "content": message.content})
    while told[0]["role"] != Message.Role.USER:
        del told[0]
    return told


def _read_on_from(conversation: Conversation, message: Message) -> None:
    conversation.leaf = message
    conversation.save(update_fields=["leaf", "updated_at"])


def _locked_tree(conversation: Conversation) -> Tree:
    """The conversation's tree, with its row locked: of two messages sent at once one comes second."""
    conversation.leaf_id = (
        Conversation.objects.select_for_update().values_list("leaf", flat=True).get(pk=conversation.pk)
    )
    return read_tree(conversation)


def _check_nothing_open(tree: Tree) -> None:
    if tree.offered():
        raise ChatRefused("Choose one of the two answers first.")
    path = tree.path()
    generation = path[-1].generation if path else None
    if generation is not None and not generation.is_final:
        raise ChatRefused("The answer is still being written. Wait for it, or stop it.")


# -- choosing and browsing -----------------------------------------------------------------------


def read_tree(conversation: Conversation) -> Tree:
    """The conversation's tree; where both answers offered came out the same, it goes on from A without a choice."""
    tree = Tree(conversation)
    offered = tree.offered()
    if not are_the_same(offered):
        return tree
    conversation.leaf = choose_answer(message=offered[0])
    return Tree(conversation)


@transaction.atomic
def choose_answer(*, message: Message) -> Message:
    """Go on from this one of two answers. The first choice stands; returns the answer it fell on."""
    Conversation.objects.select_for_update().get(pk=message.conversation_id)  # of two clicks at once one comes second
    siblings = Message.objects.filter(parent=message.parent).exclude(side="")
    if not siblings.filter(chosen=True).exists():
        siblings.filter(pk=message.pk).update(chosen=True)
        siblings.exclude(pk=message.pk).update(chosen=False)
        Conversation.objects.filter(pk=message.conversation_id, leaf=message.parent).update(
            leaf=message, updated_at=timezone.now()
        )
    return siblings.get(chosen=True)


@transaction.atomic
def switch_branch(*, message: Message) -> None:
    """Read the branch this turn is on."""
    conversation = message.conversation
    tree = _locked_tree(conversation)
    if message.is_offered:
        raise ChatRefused("Choose one of the two answers first.")
    conversation.leaf = tree.leaf_below(message)
    conversation.save(update_fields=["leaf"])


def change_settings(*, conversation: Conversation, checkpoint: Checkpoint, sampling: Mapping[str, Any]) -> None:
    """Which checkpoint answers from now on, and how."""
    _keep_settings(conversation, checkpoint, sampling)


def _keep_settings(
    conversation: Conversation, checkpoint: Checkpoint | None, sampling: Mapping[str, Any] | None
) -> None:
    before = conversation.checkpoint_id, conversation.sampling
    if checkpoint is not None:
        conversation.checkpoint = checkpoint
    if sampling is not None:
        conversation.sampling = {**DEFAULT_SAMPLING, **sampling}
    if before != (conversation.checkpoint_id, conversation.sampling):
        conversation.save(update_fields=["checkpoint", "sampling"])


def rename_conversation(*, conversation: Conversation, title: str) -> None:
    conversation.title = title
    conversation.save(update_fields=["title"])


def delete_conversation(*, conversation: Conversation) -> None:
    """Hide a conversation; `restore_conversation` brings it back."""
    Conversation.objects.filter(pk=conversation.pk, deleted_at=None).update(deleted_at=timezone.now())


def restore_conversation(*, conversation: Conversation) -> None:
    Conversation.objects.filter(pk=conversation.pk).update(deleted_at=None)


def purge_conversations(conversations: QuerySet[Conversation]) -> int:
    """Delete conversations for good, their turns and answers too; returns how many.

    An answer somebody voted on stays, for the vote's sake; nothing says any more whose it was.
    """
    purged = 0
    for conversation in conversations.iterator(chunk_size=100):
        with transaction.atomic():
            answers = list(Generation.objects.filter(message__conversation=conversation).values_list("pk", flat=True))
            conversation.delete()
            Generation.objects.filter(pk__in=answers).update(visitor=None)
            for pk in answers:
                with suppress(ProtectedError):
                    Generation.objects.filter(pk=pk).delete()
        purged += 1
    return purged


def purge_deleted_conversations() -> int:
    """Delete for good what was deleted PRUNE_AFTER_DAYS ago and not brought back; returns how many."""
    before = timezone.now() - timedelta(days=settings.PRUNE_AFTER_DAYS)
    return purge_conversations(Conversation.objects.filter(deleted_at__lt=before))
