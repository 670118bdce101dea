"""Staff pages for accounts."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth import admin as auth_admin
from django.contrib.auth.models import Group
from django.db.models import ManyToManyField
from django.http import HttpRequest

from .models import User


class ChoicesByName(admin.ModelAdmin):  # type: ignore[type-arg]
    """Groups and permissions to tick, each with its name: Django's two lists with arrows between them fit no phone, and
    a screen reader is not told what they are."""

    filter_horizontal = ()

    def formfield_for_manytomany(self, db_field: ManyToManyField[Any, Any], request: HttpRequest, **kwargs: Any) -> Any:
        widget = forms.CheckboxSelectMultiple(attrs={"class": "choices"})
        return super().formfield_for_manytomany(db_field, request, **{"widget": widget, **kwargs})


@admin.register(User)
class UserAdmin(ChoicesByName, auth_admin.UserAdmin):
    filter_horizontal = ()
    readonly_fields = ("last_login", "date_joined")  # they happened


admin.site.unregister(Group)


@admin.register(Group)
class GroupAdmin(ChoicesByName, auth_admin.GroupAdmin):
    filter_horizontal = ()
