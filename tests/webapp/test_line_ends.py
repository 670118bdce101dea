"""A text is the same text however its form was sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.urls import reverse

from trainer.data.preferences import one_line_end
from webapp.answers.models import Generation
from webapp.arena.models import Prompt
from webapp.chat.models import Conversation, Message
from webapp.checkpoints.models import Checkpoint
from webapp.line_ends import LineEndMiddleware

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("enqueued")]

TYPED = "One,\r\ntwo,\rthree,\n\r\nfour."
READ = "One,\ntwo,\nthree,\n\nfour."


@pytest.fixture
def sft(make_checkpoint: Callable[..., Checkpoint]) -> Checkpoint:
    return make_checkpoint("sft")


def test_all_line_ends_become_one() -> None:
    assert one_line_end(TYPED) == READ
    assert one_line_end("\r\r\n\n") == "\n\n\n"


def test_a_chat_begins_goes_on_and_is_edited_with_one_line_end(client: Client, sft: Checkpoint) -> None:
    client.post(reverse("chat:new"), {"text": TYPED, "checkpoint": sft.pk, "temperature": 0})
    chat = Conversation.objects.get()
    Generation.objects.update(state="done", text="Yes.", finish_reason="end")
    leaf = chat.leaf_id
    client.post(reverse("chat:send", args=[chat.pk]), {"text": TYPED, "checkpoint": sft.pk, "leaf": leaf})
    Generation.objects.update(state="done", text="Yes.", finish_reason="end")
    question = Message.objects.filter(role="user").latest("created_at")
    client.post(reverse("chat:edit", args=[question.pk]), {"text": f"{TYPED}\r\n"})
    assert list(Message.objects.filter(role="user").values_list("text", flat=True)) == [READ] * 3
    assert all("\r" not in str(messages) for messages in Generation.objects.values_list("messages", flat=True))


def test_every_stage_is_asked_with_one_line_end(client: Client, sft: Checkpoint) -> None:
    client.post(reverse("stages:compare"), {"text": TYPED})
    assert Message.objects.get(role="user").text == READ


def test_a_prompt_of_the_admin_has_one_line_end(owner_client: Client) -> None:
    response = owner_client.post(reverse("admin:arena_prompt_add"), {"text": TYPED, "source": "staff", "active": "on"})
    assert response.status_code == 302, response.context["errors"]
    assert Prompt.objects.get().text == READ


@pytest.mark.parametrize("kind", ["multipart", "urlencoded"])
def test_files_and_everything_else_stay_as_they_are(kind: str) -> None:
    seen: dict[str, Any] = {}

    def view(request: HttpRequest) -> HttpResponse:
        seen.update(post=dict(request.POST.lists()), files=dict(request.FILES.items()))
        return HttpResponse()

    sent: dict[str, Any] = {"text": TYPED, "several": ["a\r\nb", "plain"]}
    if kind == "multipart":
        sent["file"] = SimpleUploadedFile("a.txt", b"a\r\nb")
        request = RequestFactory().post("/", sent)
    else:
        body = "text=One%2C%0D%0Atwo%2C%0Dthree%2C%0A%0D%0Afour.&several=a%0D%0Ab&several=plain"
        request = RequestFactory().post("/", body, content_type="application/x-www-form-urlencoded")
    LineEndMiddleware(view).process_view(request)
    view(request)
    assert seen["post"] == {"text": [READ], "several": ["a\nb", "plain"]}
    if kind == "multipart":
        assert seen["files"]["file"].read() == b"a\r\nb"
