"""Home, the stage pages, and one question asked of every stage."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlencode

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from django_htmx.middleware import HtmxDetails

from trainer.config import GRPO, PPO, PRETRAIN, SFT
from trainer.world.tastes import TASTES
from webapp.accounts.limits import allow
from webapp.accounts.services import visitor_for
from webapp.chat.models import Conversation
from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.origin import site_origin
from webapp.stages.catalog import CATALOG
from webapp.stages.context import ask_all
from webapp.stages.forms import CompareForm, HomeForm, MaskForm, NextForm, PlaceForm, SuggestForm
from webapp.stages.masks import masked
from webapp.stages.next_tokens import ask_next_tokens, foresee
from webapp.stages.practice import practised_answers, practised_group
from webapp.stages.queries import comparison_columns, home_page
from webapp.stages.questions import COUNT, home_questions
from webapp.stages.services import ask_all_stages, ask_home_questions
from webapp.stages.stage_report import an_exchange, stage_report
from webapp.stages.suggestions import a_problem, a_voted_question


class HtmxRequest(HttpRequest):
    htmx: HtmxDetails


def _question(form: HomeForm) -> int | None:
    """The number of the fixed question a reader asks for, if any; 404 when there is no such."""
    number: int | None = form.cleaned_data["q"] if form.is_valid() else -1
    if number is not None and not 0 <= number < COUNT:
        raise Http404("No such question.")
    return number


@require_safe
def home(request: HtmxRequest) -> HttpResponse:
    """What the site is, and one question answered by every stage so far; polled while it changes."""
    form = HomeForm(request.GET)
    page = home_page(_question(form))
    context = {
        "page": page,
        "step": page.step,
        "tastes": TASTES,
        "stage_rail": page.rail,
        "ask_all": ask_all(page.rail),
    }
    if not request.htmx:
        return render(request, "stages/home.html", context)
    if form.cleaned_data["v"] == page.version:
        return HttpResponse(status=204)  # nothing new: the page keeps what it shows, selection included
    return render(request, "stages/home_live.html", context)


@require_POST
def ask_home(request: HtmxRequest) -> HttpResponse:
    """Have the fixed questions answered by every checkpoint that has not, the one that is shown first."""
    number = _question(HomeForm(request.POST)) or 0
    asked = ask_home_questions(shown=home_questions(site_origin())[number])
    if not asked and not request.htmx:  # by htmx the page asks by itself, and nobody waits for a reply
        messages.info(request, "Every stage has been asked; one that failed can be asked again after a minute.")
    return redirect(f"{reverse('stages:home')}?q={number}")


@never_cache
@require_safe
def suggest(request: HttpRequest) -> HttpResponse:
    """Something to ask, filled in where the reader came from; nothing is asked yet."""
    form = SuggestForm(request.GET)
    if not form.is_valid():
        raise Http404("No such suggestion.")
    if form.cleaned_data["about"] != "votes":
        text = a_problem(site_origin())
    else:
        text, has_votes = a_voted_question()
        if not text:
            messages.info(request, "There are no questions for voters here yet.")
        elif not has_votes:
            messages.info(request, "Nobody has voted yet. This is a question that voters may be asked.")
    query = {"text": text}
    if checkpoint := form.cleaned_data["checkpoint"]:
        query["checkpoint"] = str(checkpoint)
    page = reverse("chat:new") if form.cleaned_data["to"] == "chat" else reverse("stages:compare")
    return redirect(f"{page}?{urlencode(query)}")


@require_safe
def stage(request: HtmxRequest, slug: str) -> HttpResponse:
    """What a stage does, shown with this site's own data."""
    if slug not in CATALOG:
        raise Http404("No such stage.")
    toy = TOYS[slug](request) if slug in TOYS else {}
    if request.htmx:
        return render(request, f"stages/{slug}_toy.html", toy) if any(toy.values()) else HttpResponse(status=204)
    report = stage_report(slug)
    context = {"report": report, "stage": report.stage, "current_stage": slug}
    return render(request, f"stages/{slug}.html", {**context, **toy})


def _place(request: HttpRequest) -> int | None:
    form = PlaceForm(request.GET)
    return form.cleaned_data["place"] if form.is_valid() else None


FIRST_TEXT: Final = "A rabbit likes to"


def _next(request: HttpRequest) -> dict[str, Any]:
    """What the pre-trained model here thinks comes after a text."""
    checkpoint = Checkpoint.objects.current(PRETRAIN)
    if checkpoint is None:
        return {}
    form = NextForm(request.GET if "text" in request.GET else {"text": FIRST_TEXT})
    if not form.is_valid():
        return {"next_form": form}
    text, temperature = form.cleaned_data["text"], form.cleaned_data["temperature"]
    foreseen = foresee(checkpoint=checkpoint, text=text, temperature=temperature)
    return {"next_form": form, "text": text, "temperature": temperature, "foreseen": foreseen}


@require_POST
def ask_next(request: HtmxRequest) -> HttpResponse:
    """Have the pre-trained model say what comes after a text."""
    form = NextForm(request.POST)
    checkpoint = Checkpoint.objects.current(PRETRAIN)
    page = reverse("stages:stage", args=[PRETRAIN])
    if checkpoint is None or not form.is_valid():
        return HttpResponse(status=204) if request.htmx else redirect(page)
    if not allow("next", request):
        if request.htmx:
            return HttpResponse(status=204)  # the slower typist's turn comes with the next letter
        messages.info(request, "That was a lot of texts at once. Wait a minute, then ask again.")
        return redirect(page)
    ask_next_tokens(checkpoint=checkpoint, text=form.cleaned_data["text"])
    return redirect(f"{page}?{urlencode(form.cleaned_data)}#next")


def _mask(request: HttpRequest) -> dict[str, Any]:
    """What counts in the loss: of what the reader typed, else of an exchange on this site."""
    typed = MaskForm(request.GET or None)
    turns = typed.turns() if typed.is_valid() else []
    own = an_exchange()
    shown = turns or ([own] if own else [])
    example = dict(zip(("asked", "answered"), own, strict=True)) if own else {}
    return {
        "mask_form": typed if turns else MaskForm(initial=example),
        "masked": masked(shown, site_origin()) if shown else None,
        "is_typed": bool(turns),
    }


TOYS: Final[dict[str, Callable[[HttpRequest], dict[str, Any]]]] = {
    PRETRAIN: _next,
    SFT: _mask,
    PPO: lambda request: {"answers": practised_answers(_place(request))},
    GRPO: lambda request: {"group": practised_group(_place(request))},
}
"""What a stage's page lets its reader try on this site's own data; by htmx it is answered with that part alone."""


@require_http_methods(["GET", "HEAD", "POST"])
def compare(request: HttpRequest) -> HttpResponse:
    """Ask every stage the same thing."""
    form = CompareForm(request.POST or None, initial={"text": request.GET.get("text", "")})
    status = 200
    if request.method == "POST":
        conversation, status = _ask(request, form)
        if conversation:
            return redirect("stages:comparison", conversation.pk)
    return render(request, "stages/compare.html", {"form": form, "columns": comparison_columns(None)}, status=status)


def _ask(request: HttpRequest, form: CompareForm) -> tuple[Conversation | None, int]:
    """The conversation that was started, or None with the form's errors filled in; and the status."""
    if not form.is_valid():
        return None, 400
    if not allow("compare", request):
        form.add_error(None, "That was a lot of questions at once. Wait a minute, then ask again.")
        return None, 429
    visitor = visitor_for(request, create=True)
    assert visitor is not None, "create=True makes one"
    try:
        return ask_all_stages(visitor=visitor, text=form.cleaned_data["text"], sampling=form.sampling()), 302
    except ValueError as error:
        form.add_error(None, str(error))
        return None, 400


@never_cache
@require_safe
def comparison(request: HttpRequest, id: uuid.UUID) -> HttpResponse:
    """One question's answers side by side, streaming while they are written; only its asker sees it."""
    visitor = visitor_for(request, create=False)
    own = Conversation.objects.of(visitor.pk) if visitor else Conversation.objects.none()
    conversation = get_object_or_404(own, pk=id, kind=Conversation.Kind.COMPARE)
    columns = comparison_columns(conversation)
    context = {
        "form": CompareForm(initial={**conversation.sampling, "text": ""}),
        "conversation": conversation,
        "question": conversation.messages.filter(role="user").first(),
        "columns": columns,
        "is_unfinished": any(column.answer and not column.answer.generation.is_final for column in columns),
    }
    return render(request, "stages/compare.html", context)
