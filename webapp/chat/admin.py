"""Staff pages for conversations: read only, they belong to the people who had them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from webapp.chat.models import Conversation, Message
from webapp.checkpoints.admin import ReadOnlyAdmin


class MessageInline(admin.StackedInline):  # type: ignore[type-arg]  # not generic at run time
    model = Message
    readonly_fields = ["created_at", "role", "content", "side", "chosen"]
    fields = [*readonly_fields]
    ordering = ["created_at"]
    extra = 0
    can_delete = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Message]:
        """With the answers' text, which is the generations'."""
        return super().get_queryset(request).select_related("generation").defer("generation__messages")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Conversation)
class ConversationAdmin(ReadOnlyAdmin):
    list_display = ["title", "kind", "checkpoint", "visitor", "updated_at", "deleted_at"]
    list_filter = ["kind", "checkpoint__stage"]
    list_select_related = ["checkpoint", "visitor__user"]
    search_fields = ["title"]
    date_hierarchy = "created_at"
    exclude = ["leaf"]
    inlines = [MessageInline]
