"""The voting page and the leaderboard.

Every action is a plain form that redirects; with htmx the same view answers with the page's inner
part. Nothing rendered before a vote depends on which checkpoint wrote an answer.
"""

from __future__ import annotations

import uuid
from functools import partial
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from django_htmx.http import HttpResponseClientRedirect

from trainer.evaluation.statistics import MIN_GROUPS
from webapp.accounts import limits
from webapp.accounts.models import Visitor
from webapp.accounts.services import visitor_for
from webapp.answers.rendering import render_answer
from webapp.arena import publishing, reservations, standings, stock, tally, voting
from webapp.arena.forms import VoteForm
from webapp.arena.models import Pair, Vote
from webapp.chat.models import Conversation
from webapp.htmx import is_htmx


def _own_pair(visitor: Visitor | None, pair_id: uuid.UUID) -> Pair:
    """A pair this person may vote on; missing, foreign and withdrawn ones are the same 404."""
    pair = Pair.objects.visible_to(visitor).select_related("a", "b").filter(pk=pair_id).first()
    if pair is None:
        raise Http404("There is no such pair.")
    return pair


def _voted_pair(request: HttpRequest, pair_id: uuid.UUID) -> tuple[Visitor, Pair]:
    """This person, and a pair they voted on at /vote/; anything else is the same 404."""
    visitor = visitor_for(request, create=False)
    pair = Pair.objects.filter(pk=pair_id, votes__visitor=visitor, from_chat=False).first() if visitor else None
    if visitor is None or pair is None:
        raise Http404("There is no such vote.")
    return visitor, pair


def _next(request: HttpRequest, visitor: Visitor | None) -> Pair | None:
    """The next pair for this person, or for this browser, whose person has not voted yet."""
    return voting.next_pair(visitor, newcomer="" if visitor else reservations.newcomer_of(request))


def _page(
    request: HttpRequest,
    *,
    visitor: Visitor | None,
    pair: Pair | None,
    error: str = "",
    status: int = 200,
    said: str = "",
) -> HttpResponse:
    """The voting page with this pair, or, for htmx, its inner part. `said` is what screen readers hear."""
    learner = stock.current_learner()
    own = tally.voter(visitor) if visitor else None
    made = Vote.objects.with_answers().filter(visitor=visitor, pair__from_chat=False).order_by("-created_at", "-pk")
    context = {
        "base_template": "arena/fragment.html" if is_htmx(request) else "base.html",
        "pair": pair,
        "answers": [(side, render_answer(one.text)) for side, one in (("A", pair.a), ("B", pair.b))] if pair else [],
        "recent": list(made[:4]) if visitor else [],
        "own_votes": own.decided if own else 0,
        "consistency": standings.own_consistency(own) if own else None,
        "progress": standings.progress(),
        "reasons": voting.REASONS.items(),
        "learner": learner,
        "pairs_are_rare": pair is None and learner is not None and stock.pairs_are_rare(learner),
        "error": error,
        "said": said,
    }
    return render(request, "arena/vote.html", context, status=status)


@never_cache
@require_GET
def vote(request: HttpRequest) -> HttpResponse:
    """The next pair for this person. A page that waits for one asks by htmx, and is left as it is until there is."""
    visitor = visitor_for(request, create=False)
    pair = _next(request, visitor)
    if is_htmx(request) and pair is None:
        return HttpResponse(status=204)
    return _page(request, visitor=visitor, pair=pair, said="A pair is ready." if is_htmx(request) else "")


@never_cache
@require_http_methods(["GET", "POST"])
def cast(request: HttpRequest, pair_id: uuid.UUID) -> HttpResponse:
    """Show one pair (again, after an undo), or take the vote on it and go on to the next."""
    visitor = visitor_for(request, create=False)
    pair = _own_pair(visitor, pair_id)
    if request.method == "GET":
        if visitor and visitor.votes.filter(pair=pair).exists():
            return redirect("arena:vote")
        return _page(request, visitor=visitor, pair=pair)
    again = partial(_page, request, visitor=visitor, pair=pair)
    if not limits.allow("vote", request):
        return again(error="That was quicker than anyone reads. Please wait a moment.", status=429)
    form = VoteForm(request.POST)
    if not form.is_valid():
        return again(error="Please choose one of the five buttons.", status=400)
    voter = visitor or visitor_for(request, create=True)
    assert voter is not None
    try:
        recorded = voting.record_vote(pair=pair, visitor=voter, **form.cleaned_data)
    except voting.PairClosed as error:
        following = _next(request, voter)
        what_now = "Here is the next one." if following else "The next one is being written."
        return _page(request, visitor=voter, pair=following, error=f"{error} {what_now}", status=409)
    except PermissionDenied as error:
        return again(error=str(error), status=403)
    if not is_htmx(request):
        return redirect("arena:vote")
    said = f"Recorded: {recorded.get_choice_display()}."
    return _page(request, visitor=voter, pair=_next(request, voter), said=said)


@require_POST
def undo(request: HttpRequest, pair_id: uuid.UUID) -> HttpResponse:
    """Take the last vote back and show its pair again, unless it was revealed already."""
    voter, pair = _voted_pair(request, pair_id)
    undone = voting.undo_vote(pair=pair, visitor=voter)
    late = "" if undone else "Too late to undo: you have been told which model wrote which."
    if not is_htmx(request):
        if late:
            messages.warning(request, late)
        return redirect("arena:cast", pair_id=pair.pk)
    shown = pair if undone else voting.next_pair(voter)
    return _page(request, visitor=voter, pair=shown, error=late, said="Vote taken back." if undone else "")


@require_POST
def reveal(request: HttpRequest, pair_id: uuid.UUID) -> HttpResponse:
    """Lock the vote and say which checkpoint wrote which answer."""
    voter, pair = _voted_pair(request, pair_id)
    revealed = voting.reveal_vote(pair=pair, visitor=voter)
    if revealed is None:  # taken back at the same moment, from here or from another tab
        raise Http404("There is no such vote.")
    if not is_htmx(request):
        return redirect("arena:vote")
    return render(request, "arena/_vote_made.html", {"vote": revealed})


@require_POST
def vote_in_chat(request: HttpRequest, message_id: uuid.UUID) -> HttpResponse:
    """The choice between a conversation's two answers; the conversation goes on from the chosen one.

    htmx follows the redirect too, and gets the thread from it: the message half written below is not lost.
    """
    visitor = visitor_for(request, create=False)
    form = VoteForm(request.POST)
    if visitor is None:
        raise Http404("There is no such question.")
    if not limits.allow("vote", request):
        return HttpResponse("That was quicker than anyone reads. Please wait a moment.", status=429)
    if not form.is_valid():
        return HttpResponse("Please choose one of the buttons.", status=400)
    try:
        made = voting.record_chat_choice(question_id=message_id, visitor=visitor, choice=form.cleaned_data["choice"])
    except PermissionDenied as error:
        raise Http404("There is no such question.") from error
    page = redirect("chat:conversation", made.chosen.conversation_id)
    if not made.problem:
        shown = {name: request.POST[name] for name in ("leaf", "as_of") if name in request.POST}
        return redirect(f"{page.url}?{urlencode(shown)}") if is_htmx(request) and shown else page
    messages.warning(request, made.problem)
    return HttpResponseClientRedirect(page.url) if is_htmx(request) else page  # only a whole page shows the warning


@require_POST
def share(request: HttpRequest, conversation_id: uuid.UUID) -> HttpResponse:
    """Agree, or no longer, that a chat's opening question is asked of other voters."""
    visitor = visitor_for(request, create=False)
    own = Conversation.objects.of(visitor.pk) if visitor else Conversation.objects.none()
    conversation = get_object_or_404(own, pk=conversation_id, kind=Conversation.Kind.CHAT)
    agreed = "agreed" in request.POST
    if agreed and not limits.allow("share", request):  # taking it back is never refused
        return HttpResponse("That was a lot of sharing at once. Wait an hour, then tick it again.", status=429)
    publishing.share_opening(conversation=conversation, agreed=agreed)
    return HttpResponse(status=204) if is_htmx(request) else redirect("chat:conversation", conversation.pk)


@require_GET
def leaderboard(request: HttpRequest) -> HttpResponse:
    """Checkpoints by the votes between them."""
    rows, as_of = standings.leaderboard_as_of()
    context = {
        "rows": rows,
        "as_of": as_of,
        "plot": standings.interval_plot(rows),
        "quality": standings.vote_quality(),
        "promoted_votes": standings.PROMOTED_VOTES,
        "least_prompts": MIN_GROUPS,
        "duels": sum(count for *_, count in tally.duels()),
        "votes_wanted": settings.VOTES_PER_REWARD_MODEL,
    }
    return render(request, "arena/leaderboard.html", context)
