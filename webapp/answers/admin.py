"""Staff pages for answers."""

from __future__ import annotations

from django.contrib import admin

from webapp.answers.models import Generation
from webapp.checkpoints.admin import ReadOnlyAdmin


@admin.register(Generation)
class GenerationAdmin(ReadOnlyAdmin):
    list_display = ["prompt_start", "checkpoint", "state", "tokens", "seconds", "created_at"]
    list_filter = ["state", "checkpoint__stage"]
    list_select_related = ["checkpoint"]
    search_fields = ["text"]
    date_hierarchy = "created_at"

    @admin.display(description="prompt")
    def prompt_start(self, generation: Generation) -> str:
        return generation.prompt[:80]

    @admin.display(description="seconds")
    def seconds(self, generation: Generation) -> str:
        if generation.finished_at is None:
            return "–"
        return f"{(generation.finished_at - generation.created_at).total_seconds():.2f}"
