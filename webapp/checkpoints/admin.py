"""Staff pages for checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from webapp.accounts.audit import audit
from webapp.checkpoints.models import Checkpoint
from webapp.checkpoints.services import archive_checkpoints

COUNTED_UP_TO = 10_000
"""Rows of a list that grows without end which the staff's pages count, and turn over."""


class NewestPaginator(Paginator[Any]):
    """Pages through the first COUNTED_UP_TO rows: counting a million takes longer than showing a hundred."""

    @cached_property
    def count(self) -> int:
        rows = cast("QuerySet[Any]", self.object_list)
        return rows.order_by()[:COUNTED_UP_TO].values("pk").count()


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    """A list and a detail page, nothing to add, change or delete. The list may grow without end."""

    paginator = NewestPaginator
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class NamedValuesFilter(admin.AllValuesFieldListFilter):
    """Every value there is; a row that has none is found by a word, where Django writes a link without a text."""

    def choices(self, changelist: Any) -> Iterator[Any]:
        for choice in super().choices(changelist):
            yield {**choice, "display": choice["display"] or "none"}


@admin.register(Checkpoint)
class CheckpointAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Weights come from runs and imports; people name and archive them."""

    list_display = ["name", "stage", "preset", "size", "parent", "archived", "created_at"]
    list_filter = ["stage", ("preset", NamedValuesFilter), "archived"]
    list_select_related = ["parent"]
    search_fields = ["name", "weights_sha256", "source"]
    actions = ["archive", "unarchive"]
    readonly_fields = [
        *("stage", "preset", "line", "licence", "source", "revision", "source_sha256", "figures", "parameters"),
        *("load_problem", "size", "directory", "weights_sha256", "created_at"),
    ]
    fields = ["name", "archived", *readonly_fields]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Checkpoint | None = None) -> bool:
        return False

    @admin.display(ordering="bytes")
    def size(self, checkpoint: Checkpoint) -> str:
        return filesizeformat(checkpoint.bytes)

    @admin.display(description="lineage")
    def line(self, checkpoint: Checkpoint) -> SafeString:
        """From this checkpoint down to random weights, each a link."""
        links = (
            (reverse("admin:checkpoints_checkpoint_change", args=[ancestor.pk]), str(ancestor))
            for ancestor in checkpoint.lineage()
        )
        return format_html_join(" ← ", '<a href="{}">{}</a>', links)

    @admin.display(description="held-out figures")
    def figures(self, checkpoint: Checkpoint) -> SafeString | str:
        if not checkpoint.metrics:
            return "none recorded"
        rows = format_html_join("", "<tr><th>{}</th><td>{}</td></tr>", sorted(checkpoint.metrics.items()))
        return format_html("<table>{}</table>", rows)

    @admin.action(description="Archive: hide from visitors", permissions=["change"])
    def archive(self, request: HttpRequest, queryset: QuerySet[Checkpoint]) -> None:
        self._archive(request, queryset, archived=True)

    @admin.action(description="Show to visitors again", permissions=["change"])
    def unarchive(self, request: HttpRequest, queryset: QuerySet[Checkpoint]) -> None:
        self._archive(request, queryset, archived=False)

    @staticmethod
    def _archive(request: HttpRequest, queryset: QuerySet[Checkpoint], *, archived: bool) -> None:
        chosen = list(queryset)
        changed = archive_checkpoints(ids=[one.pk for one in chosen], archived=archived)
        for checkpoint in chosen:
            audit(request.user, "archived" if archived else "shown again", on=checkpoint)
        messages.success(
            request, f"Archived {changed}. Nothing was deleted." if archived else f"Shown again: {changed}."
        )
