"""The staff's view of prompts, pairs and votes, with the quality of the votes above their list."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.text import Truncator

from webapp.arena import standings
from webapp.arena.models import Pair, Prompt, Vote
from webapp.checkpoints.admin import ReadOnlyAdmin


@admin.register(Prompt)
class PromptAdmin(admin.ModelAdmin[Prompt]):
    list_display = ("text", "source", "active", "pairs_made")
    list_editable = ("active",)
    list_filter = ("source", "active")
    search_fields = ("text",)
    fields = ("text", "active")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Prompt]:
        return super().get_queryset(request).annotate(pairs_made=Count("pairs"))

    @admin.display(ordering="pairs_made")
    def pairs_made(self, prompt: Any) -> int:
        return int(prompt.pairs_made)

    def save_model(self, request: HttpRequest, obj: Prompt, form: ModelForm[Prompt], change: bool) -> None:
        if not change:
            obj.source = Prompt.Source.STAFF
        super().save_model(request, obj, form, change)

    def has_delete_permission(self, request: HttpRequest, obj: Prompt | None = None) -> bool:
        """Prompts are switched off: pairs and votes keep pointing at them."""
        return False


@admin.register(Pair)
class PairAdmin(ReadOnlyAdmin):
    list_display = ("id", "kind", "state", "prompt", "a_checkpoint", "b_checkpoint", "wanted_votes", "created_at")
    list_filter = ("state", "kind", "from_chat")
    list_select_related = ("prompt", "a__checkpoint", "b__checkpoint")
    date_hierarchy = "created_at"
    ordering = ("-created_at",)
    fields = (
        "id", "kind", "state", "prompt", "a_checkpoint", "a_text", "b_checkpoint", "b_text",
        "from_chat", "wanted_votes", "repeat_of", "created_at",
    )  # fmt: skip

    @admin.display(description="A's checkpoint")
    def a_checkpoint(self, pair: Pair) -> str:
        return str(pair.a.checkpoint)

    @admin.display(description="B's checkpoint")
    def b_checkpoint(self, pair: Pair) -> str:
        return str(pair.b.checkpoint)

    @admin.display(description="A")
    def a_text(self, pair: Pair) -> str:
        return pair.a.text

    @admin.display(description="B")
    def b_text(self, pair: Pair) -> str:
        return pair.b.text


@admin.register(Vote)
class VoteAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "choice", "question", "kind", "source", "taste", "visitor")
    list_filter = ("choice", "source", "taste", "pair__kind", "pair__from_chat")
    list_select_related = ("pair__a", "visitor__user")
    date_hierarchy = "created_at"
    ordering = ("-created_at",)
    change_list_template = "arena/admin_votes.html"

    @admin.display
    def question(self, vote: Vote) -> str:
        return Truncator(vote.pair.a.prompt).chars(60)

    @admin.display(ordering="pair__kind")
    def kind(self, vote: Vote) -> str:
        return vote.pair.kind

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse | TemplateResponse:
        quality = {"quality": standings.vote_quality(), "progress": standings.progress()}
        return super().changelist_view(request, {**(extra_context or {}), **quality})
