"""Training runs in the admin: start one after seeing what it will cost; look at the others.

Adding is three plain pages: choose a stage, choose its inputs, read the estimate and start. A run is
never edited: its inputs are frozen, and its state only moves through the services.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from trainer.config import STAGE_TITLES, STAGES
from webapp.accounts.audit import audit
from webapp.training import charts, curriculum, services
from webapp.training.estimates import RunEstimate, estimate_run
from webapp.training.forms import RunForm
from webapp.training.models import LogLine, TrainingRun

LOG_LINES = 50


@admin.register(TrainingRun)
class TrainingRunAdmin(admin.ModelAdmin[TrainingRun]):
    list_display = ("title", "stage", "preset", "state", "progress_text", "made", "created_at")
    list_filter = ("state", "stage")
    list_select_related = ("checkpoint",)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    *("stage", "preset", "parent", "reward_model", "overruled"),
                    *("votes_used", "votes_source", "seed", "checkpoint"),
                )
            },
        ),
        ("When", {"fields": ("created_at", "requested_by", "curriculum", "started_at", "finished_at")}),
        ("Frozen inputs", {"fields": ("config", "inputs"), "classes": ("collapse",)}),
        (
            "Its worker",
            {
                "fields": (
                    *("attempt", "worker", "threads", "lease_until"),
                    *("resumed_at", "resumed_step", "interruptions", "killed_step"),
                ),
                "classes": ("collapse",),
            },
        ),
    )
    change_form_template = "admin/training/trainingrun/detail.html"

    @admin.display(description="Run", ordering="pk")
    def title(self, run: TrainingRun) -> str:
        return f"Run {run.pk}"

    @admin.display(description="Made")
    def made(self, run: TrainingRun) -> str:
        return run.checkpoint.name if run.checkpoint else ""

    @admin.display(description="Progress")
    def progress_text(self, run: TrainingRun) -> SafeString:
        return format_html(
            '<progress max="100" value="{}" aria-label="{} per cent"></progress> {} of {}',
            run.percent,
            run.percent,
            run.step,
            run.total_steps or "…",
        )

    # There is nothing to edit and nothing is deleted: those two permissions are for stopping and discarding.

    def has_change_permission(self, request: HttpRequest, obj: TrainingRun | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: TrainingRun | None = None) -> bool:
        return False

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Choose, see the estimate, start."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        stage = request.GET.get("stage") or curriculum.next_step().stage
        if stage not in STAGES:
            stage = STAGES[1]
        form = RunForm(request.POST or None, stage=stage)
        estimate: RunEstimate | None = None
        doubts: list[str] = []
        if request.method == "POST" and form.is_valid():
            run = _start(request, form) if "start" in request.POST else None
            if run is not None:
                self.message_user(request, f"{run} is queued.")
                return redirect(run)
            doubts = form.doubts()
            estimate = estimate_run(
                stage=stage,
                preset=form.cleaned_data["preset"],
                votes=form.votes_used(),
                parent=form.cleaned_data.get("parent"),
            )
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Start a run",
            "form": form,
            "stage": stage,
            "stages": STAGE_TITLES,
            "estimate": estimate,
            "doubts": doubts,
            "command": services.train_command(**form.run_arguments()) if estimate else "",
        }
        return TemplateResponse(request, "admin/training/trainingrun/add.html", context)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        run = self.get_object(request, object_id)
        extra: dict[str, Any] = {"subtitle": None, "title": str(run) if run else None}
        if run:
            extra |= {
                "run": run,
                "table": charts.figures_table(run),
                "log": LogLine.objects.filter(run=run).order_by("-id")[:LOG_LINES],
                "resume_problem": services.resume_problem(run),
            }
        return super().change_view(request, object_id, form_url, extra)

    def view_on_site(self, run: TrainingRun) -> str:
        return reverse("training:run", args=[run.pk])


def _start(request: HttpRequest, form: RunForm) -> TrainingRun | None:
    """Queue the run of a valid form; None, with the reason in the form, when it may not start any more."""
    try:
        user = request.user if request.user.is_authenticated else None
        run = services.queue_run(**form.run_arguments(), requested_by=user)
        audit(user, f"started {run.stage} with the preset {run.preset}", on=run)
        return run
    except services.RewardModelDoubted:
        form.add_error("overrule_doubts", "Tick this to go on, or collect more votes first.")
    except ValueError as error:
        form.add_error(None, str(error))
    return None
