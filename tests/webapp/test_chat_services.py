"""Conversations as trees: sending, regenerating, editing, choosing, browsing. Nothing is destroyed."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Enqueued
from webapp.accounts.models import Visitor
from webapp.answers.models import Generation
from webapp.chat import services
from webapp.chat.models import Conversation, Message
from webapp.chat.services import ChatRefused
from webapp.chat.threads import Answer, Tree
from webapp.checkpoints.models import Checkpoint
from webapp.live import streams

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("enqueued")]


@pytest.fixture
def sft(make_checkpoint: Callable[..., Any]) -> Checkpoint:
    checkpoint: Checkpoint = make_checkpoint("sft")
    return checkpoint


@pytest.fixture
def chat(visitor: Visitor, sft: Checkpoint) -> Conversation:
    return Conversation.objects.create(visitor=visitor, checkpoint=sft, sampling=dict(services.DEFAULT_SAMPLING))


def finish(message: Message, text: str, *, reason: str = "end") -> Message:
    """The model has written this."""
    state = Generation.State.STOPPED if reason == "stopped" else Generation.State.DONE
    Generation.objects.filter(message=message).update(state=state, text=text, finish_reason=reason)
    return Message.objects.select_related("generation__checkpoint", "conversation", "parent").get(pk=message.pk)


def ask(chat: Conversation, text: str, answer: str, **options: Any) -> tuple[Message, Message]:
    question = services.send_message(conversation=chat, text=text, offer_two=False, **options)
    return question, finish(question.children.get(), answer)


def offer(chat: Conversation, text: str = "Which?") -> tuple[Message, Message, Message]:
    """A question and its two finished answers, A first."""
    question = services.send_message(conversation=chat, text=text, offer_two=True)
    a, b = question.children.order_by("side")
    return question, finish(a, "answer a"), finish(b, "answer b")


def told(message: Message) -> list[dict[str, str]]:
    """What the model was told before it wrote this message."""
    assert message.generation is not None
    return list(message.generation.messages)


def reading(chat: Conversation) -> list[str]:
    chat.refresh_from_db()
    return [message.content for message in Tree(chat).path()]


# -- sending ---------------------------------------------------------------------------------------


def test_a_first_message_makes_a_conversation(visitor: Visitor, sft: Checkpoint) -> None:
    chat = services.begin_conversation(
        visitor=visitor, checkpoint=sft, text="  What does\n a fox eat? ", sampling={"temperature": 0.0}
    )
    assert chat.title == "What does a fox eat?"
    assert reading(chat) == ["What does\n a fox eat?", ""]
    answer = chat.messages.get(role="assistant")
    assert answer.generation is not None
    assert answer.generation.visitor == visitor
    assert answer.generation.sampling["temperature"] == 0
    assert answer.generation.sampling["top_p"] == 0.95


def test_a_later_message_tells_the_model_everything_before(chat: Conversation) -> None:
    ask(chat, "One?", "First.")
    _, second = ask(chat, "Two?", "Second.")
    assert [turn["content"] for turn in told(second)] == ["One?", "First.", "Two?"]


def test_an_answer_that_failed_before_a_word_is_not_told(chat: Conversation) -> None:
    ask(chat, "One?", "")
    _, second = ask(chat, "Two?", "Second.")
    assert [turn["content"] for turn in told(second)] == ["One?", "Two?"]


@pytest.mark.parametrize(
    ("turns", "chars", "kept"),
    [
        (5, 100, ["One?", "First.", "Two?", "Second.", "Three?"]),
        (4, 100, ["Two?", "Second.", "Three?"]),  # an answer is no beginning
        (100, 20, ["Two?", "Second.", "Three?"]),
        (100, 16, ["Three?"]),
        (1, 1, ["Three?"]),  # the question itself is always told
    ],
)
def test_the_model_is_told_the_newest_turns(
    chat: Conversation, monkeypatch: pytest.MonkeyPatch, turns: int, chars: int, kept: list[str]
) -> None:
    monkeypatch.setattr(services, "HISTORY_TURNS", turns)
    monkeypatch.setattr(services, "HISTORY_CHARS", chars)
    ask(chat, "One?", "First.")
    ask(chat, "Two?", "Second.")
    _, third = ask(chat, "Three?", "Third.")
    assert [turn["content"] for turn in told(third)] == kept


@pytest.mark.parametrize("text", ["", "  \n\t "])
def test_an_empty_message_is_refused(chat: Conversation, text: str) -> None:
    with pytest.raises(ChatRefused, match="Write something first"):
        services.send_message(conversation=chat, text=text)
    assert not chat.messages.exists()


def test_a_message_of_100_kb_is_refused(chat: Conversation) -> None:
    with pytest.raises(ChatRefused, match=r"100,000 characters; a message may have 8,000"):
        services.send_message(conversation=chat, text="x" * 100_000)
    assert not chat.messages.exists()


def test_a_message_during_an_answer_is_refused(chat: Conversation, enqueued: Enqueued) -> None:
    services.send_message(conversation=chat, text="One?", offer_two=False)
    with pytest.raises(ChatRefused, match="still being written"):
        services.send_message(conversation=chat, text="Two?")
    assert chat.messages.count() == 2


def test_a_task_is_enqueued_for_every_answer(
    chat: Conversation, enqueued: Enqueued, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        services.send_message(conversation=chat, text="Which?", offer_two=True)
    assert len(enqueued.of("generate_answer")) == 2


def test_a_fixed_seed_differs_between_alternatives_and_repeats_between_conversations(
    visitor: Visitor, sft: Checkpoint
) -> None:
    def seeds() -> list[int]:
        chat = Conversation.objects.create(
            visitor=visitor, checkpoint=sft, sampling={**services.DEFAULT_SAMPLING, "seed": 41}
        )
        _, first = ask(chat, "One?", "First.")
        second = finish(services.regenerate_answer(message=first), "Another.")
        return [m.generation.sampling["seed"] for m in (first, second) if m.generation]

    assert seeds() == seeds() == [41, 42]


# -- two answers -----------------------------------------------------------------------------------


def test_about_every_third_turn_offers_two() -> None:
    sft = Checkpoint(stage="sft")
    chats = [Conversation(pk=uuid.UUID(int=number), checkpoint=sft) for number in range(300)]
    first_turns = [services.offers_two_answers(conversation=chat, turn=1) for chat in chats]
    assert sum(first_turns) == 100
    turns = [services.offers_two_answers(conversation=chats[0], turn=turn) for turn in range(1, 10)]
    assert turns == [False, False, True] * 3


@pytest.mark.parametrize("stage", ["init", "pretrain"])
def test_a_model_that_does_not_answer_is_never_compared(stage: str) -> None:
    chat = Conversation(pk=uuid.UUID(int=0), checkpoint=Checkpoint(stage=stage))
    assert not any(services.offers_two_answers(conversation=chat, turn=turn) for turn in range(1, 30))


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"top_k": 1}])
def test_greedy_answers_are_never_compared(sampling: dict[str, Any]) -> None:
    chat = Conversation(pk=uuid.UUID(int=0), checkpoint=Checkpoint(stage="sft"), sampling=sampling)
    assert not any(services.offers_two_answers(conversation=chat, turn=turn) for turn in range(1, 30))


def test_the_two_differ_only_in_their_seed(chat: Conversation) -> None:
    _, a, b = offer(chat)
    assert a.generation is not None
    assert b.generation is not None
    assert (a.side, b.side, a.chosen, b.chosen) == ("A", "B", None, None)
    assert a.generation.checkpoint == b.generation.checkpoint
    assert a.generation.messages == b.generation.messages
    assert a.generation.sampling["seed"] != b.generation.sampling["seed"]
    assert {**a.generation.sampling, "seed": 0} == {**b.generation.sampling, "seed": 0}


def test_a_coin_decides_which_is_a(visitor: Visitor, sft: Checkpoint) -> None:
    """With seeds s and s + 1, either may be called A."""
    lower_seed_is = Counter()
    for _ in range(40):
        chat = Conversation.objects.create(
            visitor=visitor, checkpoint=sft, sampling={**services.DEFAULT_SAMPLING, "seed": 5}
        )
        _, a, _ = offer(chat)
        assert a.generation is not None
        lower_seed_is["A" if a.generation.sampling["seed"] == 5 else "B"] += 1
    assert set(lower_seed_is) == {"A", "B"}  # one side only: once in 2**39 runs


def test_the_conversation_waits_for_the_choice(chat: Conversation) -> None:
    question, a, _ = offer(chat)
    assert reading(chat) == ["Which?"]
    assert Tree(chat).offered() == list(question.children.order_by("side"))
    for action, arguments in (
        (services.send_message, {"conversation": chat, "text": "And?"}),
        (services.edit_message, {"message": question, "text": "Other?"}),
        (services.regenerate_answer, {"message": a}),
        (services.switch_branch, {"message": a}),
    ):
        with pytest.raises(ChatRefused, match="Choose one of the two"):
            action(**arguments)  # type: ignore[operator]


def test_it_goes_on_from_the_chosen_answer(chat: Conversation) -> None:
    _, a, b = offer(chat)
    assert services.choose_answer(message=b) == b
    assert reading(chat) == ["Which?", "answer b"]
    a.refresh_from_db()
    b.refresh_from_db()
    assert (a.chosen, b.chosen) == (False, True)
    _, answer = ask(chat, "And?", "More.")
    assert [turn["content"] for turn in told(answer)] == ["Which?", "answer b", "And?"]


def test_the_first_choice_stands(chat: Conversation) -> None:
    _, a, b = offer(chat)
    services.choose_answer(message=b)
    assert services.choose_answer(message=a) == b
    assert reading(chat) == ["Which?", "answer b"]


def test_two_answers_that_came_out_the_same_are_no_choice(chat: Conversation) -> None:
    question = services.send_message(conversation=chat, text="Which?", offer_two=True)
    a, b = question.children.order_by("side")
    finish(b, "mice ")
    assert len(services.read_tree(chat).offered()) == 2  # A may still come out otherwise
    finish(a, "mice")
    tree = services.read_tree(chat)
    assert tree.offered() == []
    assert [turn.message.content for turn in tree.turns()] == ["Which?", "mice"]
    assert tree.turns()[-1].came_twice
    assert not Message.objects.filter(chosen=True).exists()  # looking has written nothing
    _, answer = ask(chat, "And?", "More.")
    assert [turn["content"] for turn in told(answer)] == ["Which?", "mice", "And?"]


def test_the_other_answer_stays_readable(chat: Conversation) -> None:
    _, a, b = offer(chat)
    services.choose_answer(message=b)
    services.switch_branch(message=Message.objects.get(pk=a.pk))
    assert reading(chat) == ["Which?", "answer a"]


# -- branches --------------------------------------------------------------------------------------


def test_regenerating_keeps_the_first_answer(chat: Conversation) -> None:
    question, first = ask(chat, "One?", "First.")
    second = finish(services.regenerate_answer(message=first), "Another.")
    assert told(second) == told(first)
    chat.refresh_from_db()
    (_, turn) = Tree(chat).turns()
    assert (turn.message, turn.number, turn.previous, turn.next) == (second, 2, first, None)
    services.switch_branch(message=first)
    assert reading(chat) == ["One?", "First."]
    assert question.children.count() == 2


def test_regenerating_asks_the_checkpoint_chosen_now(chat: Conversation, make_checkpoint: Callable[..., Any]) -> None:
    _, first = ask(chat, "One?", "First.")
    grpo = make_checkpoint("grpo")
    services.change_settings(conversation=chat, checkpoint=grpo, sampling={"temperature": 0.3})
    second = services.regenerate_answer(message=Message.objects.get(pk=first.pk))
    assert second.generation is not None
    assert second.generation.checkpoint == grpo
    assert second.generation.sampling["temperature"] == 0.3


def test_editing_a_message_starts_a_branch(chat: Conversation) -> None:
    ask(chat, "One?", "First.")
    question, _ = ask(chat, "Two?", "Second.")
    edited = services.edit_message(message=question, text="Two, please?")
    answers = [finish(answer, "Better.") for answer in edited.children.all()]
    assert [turn["content"] for turn in told(answers[0])] == ["One?", "First.", "Two, please?"]
    services.switch_branch(message=question)
    assert reading(chat) == ["One?", "First.", "Two?", "Second."]


def test_editing_the_very_first_message_starts_another_root(chat: Conversation) -> None:
    question, _ = ask(chat, "One?", "First.")
    edited = services.edit_message(message=question, text="Uno?")
    assert edited.parent is None
    chat.refresh_from_db()
    assert Tree(chat).turns()[0].alternatives == [question, edited]


def test_switching_goes_to_the_newest_end_of_a_branch(chat: Conversation) -> None:
    question, first = ask(chat, "One?", "First.")
    ask(chat, "Two?", "Second.")
    finish(services.regenerate_answer(message=first), "Another.")
    assert reading(chat) == ["One?", "Another."]
    services.switch_branch(message=first)
    assert reading(chat) == ["One?", "First.", "Two?", "Second."]
    services.switch_branch(message=question)
    assert reading(chat) == ["One?", "Another."]


def test_only_ones_own_messages_are_edited_and_only_answers_regenerated(chat: Conversation) -> None:
    question, answer = ask(chat, "One?", "First.")
    with pytest.raises(ChatRefused, match="Only your own"):
        services.edit_message(message=answer, text="x")
    with pytest.raises(ChatRefused, match="Only an answer"):
        services.regenerate_answer(message=question)


def test_an_answer_cut_short_can_be_continued(chat: Conversation, make_checkpoint: Callable[..., Any]) -> None:
    question = services.send_message(conversation=chat, text="One?", offer_two=False)
    short = finish(question.children.get(), "A fox", reason="length")
    services.change_settings(conversation=chat, checkpoint=make_checkpoint("ppo"), sampling={})
    longer = services.continue_answer(message=Message.objects.get(pk=short.pk))
    assert told(longer) == [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "A fox"},
    ]
    assert longer.generation is not None
    assert short.generation is not None
    assert longer.generation.checkpoint == short.generation.checkpoint
    assert longer.parent == question


def test_an_answer_that_ended_is_not_continued(chat: Conversation) -> None:
    _, answer = ask(chat, "One?", "First.")
    with pytest.raises(ChatRefused, match="stopped or cut off"):
        services.continue_answer(message=answer)


# -- asking all -----------------------------------------------------------------------------------


def test_asking_all_gives_every_checkpoint_the_same_terms(
    visitor: Visitor, make_checkpoint: Callable[..., Any]
) -> None:
    checkpoints = [make_checkpoint(stage) for stage in ("init", "pretrain", "sft")]
    asked = services.ask_checkpoints(visitor=visitor, checkpoints=checkpoints, text="One?", sampling={"temperature": 1})
    answers = list(asked.messages.filter(role="assistant").select_related("generation__checkpoint"))
    assert asked.kind == Conversation.Kind.COMPARE
    assert [answer.generation.checkpoint for answer in answers if answer.generation] == checkpoints
    assert len({answer.generation.sampling["seed"] for answer in answers if answer.generation}) == 1
    assert Conversation.objects.of(visitor.pk).history().count() == 0


def test_asking_all_needs_someone_to_ask(visitor: Visitor) -> None:
    with pytest.raises(ChatRefused, match="no checkpoint"):
        services.ask_checkpoints(visitor=visitor, checkpoints=[], text="One?", sampling={})


# -- history --------------------------------------------------------------------------------------


def test_the_history_is_searched_in_titles_questions_and_answers(visitor: Visitor, sft: Checkpoint) -> None:
    chats = {}
    for title, question, answer in (
        ("Foxes", "a", "b"),
        ("x", "about FOXES", "b"),
        ("y", "a", "foxes eat"),
        ("z", "a", "b"),
    ):
        chat = Conversation.objects.create(visitor=visitor, checkpoint=sft, title=title, sampling={"temperature": 0})
        ask(chat, question, answer)
        chats[title] = chat
    found = Conversation.objects.of(visitor.pk).history("foxes")
    assert {chat.title for chat in found} == {"Foxes", "x", "y"}


def test_a_deleted_conversation_comes_back(chat: Conversation, visitor: Visitor) -> None:
    services.delete_conversation(conversation=chat)
    assert not Conversation.objects.of(visitor.pk).exists()
    services.restore_conversation(conversation=chat)
    assert Conversation.objects.of(visitor.pk).get() == chat


def test_a_long_title_is_cut_at_a_word() -> None:
    assert services.title_of("word " * 40) == ("word " * 12)[:59].rstrip() + "…"


# -- reading --------------------------------------------------------------------------------------


def test_a_running_answer_is_shown_as_far_as_it_has_come(chat: Conversation) -> None:
    question = services.send_message(conversation=chat, text="One?", offer_two=False)
    message = question.children.get()
    assert message.generation is not None
    message.generation.state = Generation.State.RUNNING
    for text in (" ", " A "):  # a continuation begins with a space
        streams.append(message.generation.stream_key, {"type": "token", "text": text})
    last = streams.append(message.generation.stream_key, {"type": "token", "text": "fox"})
    answer = Answer(message)
    assert (answer.live_text, answer.last_id) == ("A fox", last)


def test_a_page_reads_a_long_conversation_in_few_queries(
    chat: Conversation, django_assert_max_num_queries: Any
) -> None:
    for number in range(8):
        ask(chat, f"{number}?", f"{number}.")
    chat = Conversation.objects.get(pk=chat.pk)
    with django_assert_max_num_queries(2) as asked:
        turns = Tree(chat).turns()
        shown = [turn.answer.html for turn in turns if turn.message.role == "assistant"]
    assert len(shown) == 8
    # Every answer holds the conversation up to it: reading them all would grow with the square of its length.
    assert not [query for query in asked if '"checkpoints_generation"."messages"' in query["sql"]]


def test_a_queued_answer_costs_the_page_no_look_into_the_log(
    chat: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = services.send_message(conversation=chat, text="One?", offer_two=False)
    monkeypatch.delattr(streams, "read")
    answer = Answer(question.children.get())
    assert (answer.live_text, answer.last_id) == ("", "0")
