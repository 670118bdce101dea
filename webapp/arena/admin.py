"""The staff's view of prompts, pairs and votes, with the quality of the votes above their list."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from trainer.world.tastes import TASTES
from webapp.accounts.audit import audit
from webapp.accounts.models import User
from webapp.arena import exports, standings
from webapp.arena.models import Pair, Prompt, Vote, VoteExport
from webapp.checkpoints.admin import ReadOnlyAdmin
from webapp.files import send_file


class PromptRowForm(forms.ModelForm[Prompt]):
    """A row of the list of prompts: its checkbox says which prompt it switches."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "active" in self.fields:
            label = f"Active: {Truncator(self.instance.text).chars(80)}"
            self.fields["active"].widget.attrs["aria-label"] = label


@admin.register(Prompt)
class PromptAdmin(admin.ModelAdmin[Prompt]):
    list_display = ("text", "source", "active", "pairs_made")
    list_editable = ("active",)
    list_filter = ("source", "active")
    search_fields = ("text",)
    fields = ("text", "active")

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> type[ModelForm[Prompt]]:
        return super().get_changelist_form(request, **{"form": PromptRowForm, **kwargs})

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
    list_filter = ("state", "kind", "from_chat", "created_at")
    list_select_related = ("prompt", "a__checkpoint", "b__checkpoint")
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


class TasteFilter(admin.SimpleListFilter):
    """By the tastes that are offered: which there are would have to be looked for in every vote.

    Another one, as sentences:4, is found by writing it into the address.
    """

    title = "taste"
    parameter_name = "taste"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Vote]) -> list[tuple[str, str]]:
        chosen = request.GET.get(self.parameter_name, "")
        return [(taste, taste) for taste in dict.fromkeys([*TASTES, *filter(None, [chosen])])]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Vote]) -> QuerySet[Vote]:
        return queryset.filter(taste=self.value()) if self.value() else queryset


@admin.register(Vote)
class VoteAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "choice", "question", "kind", "source", "taste", "visitor")
    list_filter = ("choice", "source", TasteFilter, "pair__kind", "pair__from_chat", "created_at")
    list_select_related = ("pair__a", "visitor__user")
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


@admin.register(VoteExport)
class VoteExportAdmin(admin.ModelAdmin[VoteExport]):
    """Adding one asks the background for a file; its page shows how far it is, and then the link."""

    list_display = ("created_at", "state", "progress", "requested_by", "file")
    list_select_related = ("requested_by",)
    ordering = ("-created_at",)

    def get_fields(self, request: HttpRequest, obj: VoteExport | None = None) -> tuple[str, ...]:
        return ("state", "progress", "file", "sha256", "error", "requested_by", "created_at") if obj else ()

    @admin.display(description="votes")
    def progress(self, export: VoteExport) -> str:
        if export.state == VoteExport.State.DONE:
            return f"{export.written:,}"
        return f"{export.written:,} of {export.total:,} ({export.percent} %)"

    @admin.display
    def file(self, export: VoteExport) -> SafeString | str:
        if export.state != VoteExport.State.DONE:
            return "It is being written; this page looks again by itself." if not export.is_final else "–"
        if not export.path.exists():
            return "deleted; ask for a new one"
        address = reverse("admin:arena_voteexport_file", args=[export.pk])
        return format_html('<a href="{}">{}</a>, {}', address, export.path.name, filesizeformat(export.bytes))

    def has_change_permission(self, request: HttpRequest, obj: VoteExport | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: VoteExport | None = None) -> bool:
        return False

    def get_urls(self) -> list[URLPattern]:
        file = self.admin_site.admin_view(self.file_view)
        return [path("<path:object_id>/file/", file, name="arena_voteexport_file"), *super().get_urls()]

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if request.method != "POST":
            return super().add_view(request, form_url, {**(extra_context or {}), "title": "Write every vote to a file"})
        if not self.has_add_permission(request):
            raise PermissionDenied
        export = exports.request_export(requested_by=cast(User, request.user))
        audit(request.user, "asked for a file of all votes", on=export)
        return redirect("admin:arena_voteexport_change", export.pk)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        response = super().change_view(request, object_id, form_url, extra_context)
        export = self.get_object(request, object_id)
        if export and not export.is_final:
            response["Refresh"] = "2"
        return response

    def file_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """The file itself, piece by piece."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        export = self.get_object(request, object_id)
        if export is None or export.state != VoteExport.State.DONE:
            raise Http404("There is no such file.")
        try:
            return send_file(request, export.path, content_type="application/jsonl")
        except FileNotFoundError:
            raise Http404("That file was deleted; ask for a new export.") from None
