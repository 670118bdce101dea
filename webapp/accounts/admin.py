"""Staff pages for accounts."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth import admin as auth_admin
from django.contrib.auth.models import Group, Permission
from django.db.models import ManyToManyField
from django.http import HttpRequest

from .models import User


class TickedByName(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    """Groups and permissions to tick, each beside its name: Django's two lists with arrows between them fit no phone,
    and a screen reader is not told what they are."""

    def formfield_for_manytomany(
        self, db_field: ManyToManyField[Any, Any], request: HttpRequest | None = None, **kwargs: Any
    ) -> forms.ModelMultipleChoiceField[Any] | None:
        ticked: dict[str, Any] = {"widget": forms.CheckboxSelectMultiple(attrs={"class": "choices"})}
        if db_field.related_model is Permission:
            ticked["queryset"] = Permission.objects.select_related("content_type")  # which is part of their names
        return super().formfield_for_manytomany(db_field, request, **{**ticked, **kwargs})  # type: ignore[arg-type]


@admin.register(User)
class UserAdmin(TickedByName, auth_admin.UserAdmin):  # type: ignore[type-arg]
    filter_horizontal = ()
    readonly_fields = ("last_login", "date_joined")  # they happened


admin.site.unregister(Group)


@admin.register(Group)
class GroupAdmin(TickedByName, auth_admin.GroupAdmin):
    filter_horizontal = ()
