"""The chat pages. Every action is a form that redirects to the conversation's page.

With htmx it is answered with what has changed: the turns after those the page shows already, however long
the conversation is; without JavaScript the page is simply loaded again. An action that is refused says
why, near the form, and changes nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from webapp.accounts import limits
from webapp.accounts.services import visitor_for
from webapp.answers.looks import LookRefused
from webapp.answers.services import stop_generation
from webapp.chat import microscope, services
from webapp.chat.forms import ComposerForm, EditForm, SettingsForm, ShownForm, TitleForm
from webapp.chat.models import Conversation, Message
from webapp.chat.threads import Answer
from webapp.checkpoints.models import Checkpoint
from webapp.htmx import is_htmx

TOO_FAST = "That was a lot of messages at once. Wait a minute, then send again."
TOO_MANY_LOOKS = "That was a lot of answers to look into at once. Wait a minute, then open the tokens again."
TOO_MANY_SEARCHES = "That was a lot of searching at once. Wait a minute, then search again."
CHATS_PER_PAGE = 60


# -- who may --------------------------------------------------------------------------------------


def _own_conversation(request: HttpRequest, conversation_id: uuid.UUID) -> Conversation:
    """404 for a conversation that is not there, deleted, or somebody else's: nobody can tell which."""
    visitor = visitor_for(request, create=False)
    if visitor is None:
        raise Http404("There is no such conversation.")
    own = Conversation.objects.of(visitor.pk).select_related("checkpoint", "visitor")
    return get_object_or_404(own, pk=conversation_id)


def _own_chat(request: HttpRequest, conversation_id: uuid.UUID) -> Conversation:
    """The same for what is done to a conversation: a comparison has no turns to add and is left as it is."""
    own = _own_conversation(request, conversation_id)
    if own.kind != Conversation.Kind.CHAT:
        raise Http404("There is no such conversation.")
    return own


def _own_message(request: HttpRequest, message_id: uuid.UUID) -> Message:
    visitor = visitor_for(request, create=False)
    if visitor is None:
        raise Http404("There is no such message.")
    return get_object_or_404(Message.objects.of(visitor.pk), pk=message_id)


# -- pages ----------------------------------------------------------------------------------------


@never_cache
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    """Start a chat; past ones, and a search in them."""
    return _index(request, _composer_for_new(request))


@never_cache
@require_http_methods(["GET", "POST"])
def new(request: HttpRequest) -> HttpResponse:
    """Start a chat: with `?checkpoint=` and `?text=` filled in for you, or for good by POST."""
    if request.method == "GET":
        return _index(request, _composer_for_new(request))
    form = ComposerForm(request.POST)
    if not limits.allow("chat", request):
        form.add_error(None, TOO_FAST)
        return _index(request, form, status=429)
    if not form.is_valid():
        return _index(request, form, status=422)
    visitor = visitor_for(request, create=True)
    assert visitor is not None
    begun = services.begin_conversation(
        visitor=visitor,
        checkpoint=form.cleaned_data["checkpoint"],
        text=form.cleaned_data["text"],
        sampling=form.sampling,
    )
    return redirect("chat:conversation", begun.pk)


def _composer_for_new(request: HttpRequest) -> ComposerForm:
    wanted = request.GET.get("checkpoint", "")
    chattable = Checkpoint.objects.chattable().by_progress()
    # Python reads no number of thousands of digits, and no checkpoint has one.
    is_number = wanted.isascii() and wanted.isdigit() and len(wanted) < 19
    checkpoint = chattable.filter(pk=wanted).first() if is_number else None
    return ComposerForm(
        initial={
            **services.DEFAULT_SAMPLING,
            "checkpoint": checkpoint or chattable.first(),
            "text": request.GET.get("text", "")[:2000],
        }
    )


def _index(request: HttpRequest, form: ComposerForm, *, status: int = 200) -> HttpResponse:
    visitor = visitor_for(request, create=False)
    query = request.GET.get("q", "").replace("\0", "").strip()[:100]  # PostgreSQL takes no NUL
    if query and visitor and not limits.allow("search", request):
        return _one_sentence(TOO_MANY_SEARCHES, status=429)
    own = Conversation.objects.of(visitor.pk).history(query) if visitor else Conversation.objects.none()
    context = {
        "base_template": _base_template(request),
        "form": form,
        "page": Paginator(own, CHATS_PER_PAGE).get_page(request.GET.get("page")),
        "query": query,
        "deleted": _just_deleted(request),
    }
    return render(request, "chat/index.html", context, status=status)


def _just_deleted(request: HttpRequest) -> Conversation | None:
    """The deleted conversation the reader may want back."""
    visitor = visitor_for(request, create=False)
    try:
        pk = uuid.UUID(request.GET.get("deleted", ""))
    except ValueError:
        return None
    return Conversation.objects.filter(visitor=visitor, pk=pk).exclude(deleted_at=None).first() if visitor else None


@never_cache
@require_GET
def conversation(request: HttpRequest, conversation_id: uuid.UUID) -> HttpResponse:
    """One conversation, on the branch being read."""
    own = _own_conversation(request, conversation_id)
    if own.kind == Conversation.Kind.COMPARE:
        return redirect("stages:comparison", own.pk)
    return _page(request, own)


def _page(
    request: HttpRequest, own: Conversation, *, form: ComposerForm | None = None, status: int = 200
) -> HttpResponse:
    """The whole page, or, for htmx, its thread from the first turn on that the page that asks does not show."""
    tree = services.read_tree(own)
    turns = tree.turns()
    shown = ShownForm(request.POST or request.GET).shown if is_htmx(request) else None
    kept = tree.kept(shown) if shown else 0
    context: dict[str, Any] = {
        "conversation": own,
        "turns": turns[kept:],
        "kept": turns[kept - 1].message if kept else None,
        "as_of": tree.newest.isoformat() if tree.newest else "",
        "offered": [Answer(message) for message in tree.offered()],
        "stages": list(Checkpoint.objects.chattable().current_by_stage().values()),
    }
    if is_htmx(request):
        return render(request, "chat/thread.html", context, status=status)
    initial = {**services.DEFAULT_SAMPLING, **own.sampling, "checkpoint": own.checkpoint}
    context["form"] = form or ComposerForm(initial=initial, conversation=own)
    return render(request, "chat/conversation.html", context, status=status)


def _show(request: HttpRequest, own: Conversation) -> HttpResponse:
    """What a conversation has become by an action."""
    return _page(request, own) if is_htmx(request) else redirect("chat:conversation", own.pk)


def _base_template(request: HttpRequest) -> str:
    return "chat/fragment.html" if is_htmx(request) else "base.html"


# -- turns ----------------------------------------------------------------------------------------


@require_POST
def send(request: HttpRequest, conversation_id: uuid.UUID) -> HttpResponse:
    """Add a message and have it answered under the settings sent along."""
    own = _own_chat(request, conversation_id)
    form = ComposerForm(request.POST, conversation=own)
    if not limits.allow("chat", request):
        form.add_error(None, TOO_FAST)
        return _refuse(request, own, form, status=429)
    if not form.is_valid():
        return _refuse(request, own, form)
    try:
        services.send_message(
            conversation=own,
            text=form.cleaned_data["text"],
            checkpoint=form.cleaned_data["checkpoint"],
            sampling=form.sampling,
            shown_leaf=form.cleaned_data["leaf"],
        )
    except services.ChatRefused as error:
        form.add_error(None, str(error))
        return _refuse(request, own, form)
    return _show(request, own)


def _refuse(request: HttpRequest, own: Conversation, form: ComposerForm, *, status: int = 422) -> HttpResponse:
    """The reason near the composer: alone for htmx, on the whole page (draft kept) without."""
    if is_htmx(request):
        return _one_sentence(form.one_error, status=status)
    return _page(request, own, form=form, status=status)


def _one_sentence(text: str, *, status: int = 422) -> HttpResponse:
    """An error for chat.js, which shows it where the composer's errors are."""
    return HttpResponse(text, status=status, content_type="text/plain; charset=utf-8")


def _act(request: HttpRequest, own: Conversation, action: Callable[..., object], **arguments: Any) -> HttpResponse:
    """Do something to a conversation's turns; one that makes no sense now is refused with the reason."""
    try:
        action(**arguments)
    except services.ChatRefused as error:
        return _complain(request, own, str(error))
    return _show(request, own)


def _complain(request: HttpRequest, own: Conversation, text: str, *, status: int = 422) -> HttpResponse:
    if is_htmx(request):
        return _one_sentence(text, status=status)
    messages.error(request, text)
    return redirect("chat:conversation", own.pk)


@require_POST
def regenerate(request: HttpRequest, message_id: uuid.UUID) -> HttpResponse:
    """Another answer beside this one, under the settings sent along, perhaps by another checkpoint."""
    message = _own_message(request, message_id)
    own = message.conversation
    if not limits.allow("chat", request):
        return _complain(request, own, TOO_FAST, status=429)
    form = SettingsForm(request.POST, conversation=own)
    if not form.is_valid():
        return _complain(request, own, form.one_error)
    checkpoint = form.cleaned_data["checkpoint"]
    return _act(
        request, own, services.regenerate_answer, message=message, checkpoint=checkpoint, sampling=form.sampling
    )


@require_POST
def continue_(request: HttpRequest, message_id: uuid.UUID) -> HttpResponse:
    """Go on with an answer that was stopped or cut off."""
    message = _own_message(request, message_id)
    if not limits.allow("chat", request):
        return _complain(request, message.conversation, TOO_FAST, status=429)
    return _act(request, message.conversation, services.continue_answer, message=message)


@require_POST
def edit(request: HttpRequest, message_id: uuid.UUID) -> HttpResponse:
    """Ask differently, on a branch of its own."""
    message = _own_message(request, message_id)
    own = message.conversation
    form = EditForm(request.POST)
    if not limits.allow("chat", request):
        return _complain(request, own, TOO_FAST, status=429)
    if not form.is_valid():
        return _complain(request, own, str(form.errors["text"][0]))
    return _act(request, own, services.edit_message, message=message, text=form.cleaned_data["text"])


@require_POST
def switch(request: HttpRequest, message_id: uuid.UUID) -> HttpResponse:
    """Read the branch this message is on."""
    message = _own_message(request, message_id)
    return _act(request, message.conversation, services.switch_branch, message=message)


@require_POST
def stop(request: HttpRequest, message_id: uuid.UUID) -> HttpResponse:
    """Stop the model; what it has written stays."""
    message = _own_message(request, message_id)
    if message.generation is None:
        raise Http404("There is no such answer.")
    stop_generation(message.generation)
    return redirect("chat:conversation", message.conversation_id)


@never_cache
@require_GET
def tokens(request: HttpRequest, message_id: uuid.UUID) -> HttpResponse:
    """The token microscope of an answer. With `?waiting` the page that waits for it asks again, and begins nothing."""
    visitor = visitor_for(request, create=False)
    if visitor is None:
        raise Http404("There is no such answer.")
    message = get_object_or_404(Message.objects.answers_of(visitor.pk), pk=message_id)
    status, shown = 200, microscope.Shown(message)
    try:
        shown.look = microscope.open_look(
            message=message, is_waiting="waiting" in request.GET, may_ask=lambda: limits.allow("look", request)
        )
    except microscope.TooManyLooks:
        status, shown.problem = 429, TOO_MANY_LOOKS
    except LookRefused as error:
        status, shown.problem = 422, str(error)
    template = "chat/microscope.html" if is_htmx(request) else "chat/tokens.html"
    response = render(request, template, {"shown": shown, "conversation": message.conversation}, status=status)
    if shown.is_waiting and not is_htmx(request):
        response["Refresh"] = f"1; url={request.path}?waiting=1"
    return response


# -- the conversation itself ----------------------------------------------------------------------


@require_POST
def change_settings(request: HttpRequest, conversation_id: uuid.UUID) -> HttpResponse:
    """Keep the model and sampling settings for the turns to come."""
    own = _own_chat(request, conversation_id)
    form = SettingsForm(request.POST, conversation=own)
    if form.is_valid():
        services.change_settings(conversation=own, checkpoint=form.cleaned_data["checkpoint"], sampling=form.sampling)
        return redirect("chat:conversation", own.pk)
    return _complain(request, own, form.one_error)


@require_POST
def rename(request: HttpRequest, conversation_id: uuid.UUID) -> HttpResponse:
    own = _own_chat(request, conversation_id)
    form = TitleForm(request.POST)
    if form.is_valid():
        services.rename_conversation(conversation=own, title=form.cleaned_data["title"])
    else:
        messages.error(request, str(form.errors["title"][0]))
    return redirect("chat:conversation", own.pk)


@require_POST
def delete(request: HttpRequest, conversation_id: uuid.UUID) -> HttpResponse:
    """Hide a conversation and offer to bring it back."""
    own = _own_chat(request, conversation_id)
    services.delete_conversation(conversation=own)
    return redirect(f"{reverse('chat:index')}?deleted={own.pk}")


@require_POST
def restore(request: HttpRequest, conversation_id: uuid.UUID) -> HttpResponse:
    """Bring a deleted conversation back."""
    visitor = visitor_for(request, create=False)
    if visitor is None:
        raise Http404("There is no such conversation.")
    own = get_object_or_404(Conversation.objects.chats(), pk=conversation_id, visitor=visitor)
    services.restore_conversation(conversation=own)
    return redirect("chat:conversation", own.pk)
