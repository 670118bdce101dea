"""Run pages: everyone may read them; who has the permission may start, stop and discard."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import redis
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from webapp.accounts.audit import audit
from webapp.live import streams
from webapp.training import charts, curriculum, services
from webapp.training.forms import NextStepForm, StopForm
from webapp.training.models import LogLine, TrainingRun

RUNS_PER_PAGE = 30
LOG_LINES = 200

View = Callable[..., HttpResponse]

START = "training.add_trainingrun"
"""May start runs, take the next step and resume."""
STOP = "training.change_trainingrun"
DISCARD = "training.delete_trainingrun"


def allowed_to(permission: str) -> Callable[[View], View]:
    """403 for everyone who is not staff with this permission."""

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, **kwargs: Any) -> HttpResponse:
            require(request, permission)
            return view(request, **kwargs)

        return guarded

    return decorate


def require(request: HttpRequest, permission: str) -> None:
    if not (request.user.is_authenticated and request.user.is_staff and request.user.has_perm(permission)):
        raise PermissionDenied


@require_GET
def runs(request: HttpRequest) -> HttpResponse:
    """Every run, newest first."""
    page = Paginator(TrainingRun.objects.with_links(), RUNS_PER_PAGE).get_page(request.GET.get("page"))
    return render(request, "training/runs.html", {"page": page})


@never_cache  # who may see it is shown why a run failed, paths and all
@require_GET
def run(request: HttpRequest, pk: int) -> HttpResponse:
    """One run: its curves, samples and log as they are now, and where its live log goes on from."""
    # The position first: an event that comes between the two reads is then seen twice, not never.
    position = _stream_position(pk)
    shown = get_object_or_404(TrainingRun.objects.with_links(), pk=pk)
    log = LogLine.objects.filter(run=shown)
    context = {
        "run": shown,
        "position": position,
        "chart": charts.chart_data(shown),
        "table": charts.figures_table(shown),
        "samples": charts.sample_history(shown),
        "log": log.order_by("-id")[:LOG_LINES],
        "alarms": log.filter(level=LogLine.Level.ALARM).order_by("-id")[:5],
        "resume_problem": services.resume_problem(shown),
        "train_command": services.train_command(
            stage=shown.stage,
            preset=shown.preset,
            parent=shown.parent,
            reward_model=shown.reward_model,
            votes=shown.votes_source or "all",
            seed=shown.seed,
            overrule_doubts=bool(shown.overruled),
        ),
    }
    return render(request, "training/run.html", context)


def _stream_position(pk: int) -> str:
    try:
        return streams.last_id(TrainingRun(pk=pk).stream_key)
    except redis.RedisError:
        return "0"  # the page still shows what the database has


@require_POST
@allowed_to(STOP)
def stop(request: HttpRequest, pk: int) -> HttpResponse:
    """Stop and save, or stop and discard."""
    form = StopForm(request.POST)
    how = form.cleaned_data["how"] if form.is_valid() else ""
    if how == TrainingRun.StopRequest.DISCARD:
        require(request, DISCARD)
    stopped = get_object_or_404(TrainingRun, pk=pk)
    try:
        services.request_stop(run=stopped, how=how)
        audit(request.user, f"asked to {TrainingRun.StopRequest(how).label}", on=stopped)
    except ValueError as error:
        messages.error(request, str(error))
    return redirect(stopped)


@require_POST
@allowed_to(START)
def resume(request: HttpRequest, pk: int) -> HttpResponse:
    """Go on from the last saved step."""
    resumed = get_object_or_404(TrainingRun, pk=pk)
    try:
        services.resume_run(run=resumed)
        audit(request.user, "resumed", on=resumed)
    except ValueError as error:
        messages.error(request, str(error))
    return redirect(resumed)


@require_POST
@allowed_to(START)
def next_step(request: HttpRequest) -> HttpResponse:
    """Take the curriculum's next step."""
    form = NextStepForm(request.POST)
    try:
        if not form.is_valid():
            raise ValueError(" ".join(str(text) for texts in form.errors.values() for text in texts))
        user = request.user if request.user.is_authenticated else None
        curriculum.perform_next_step(requested_by=user, **form.cleaned_data)
        audit(request.user, f"took the next step {form.cleaned_data}")
    except ValueError as error:
        messages.error(request, str(error))
    return redirect("stages:home")
