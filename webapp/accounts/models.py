"""Who is here: users, visitors (a person with or without an account) and the owner's first link."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import models


class User(AbstractUser):
    """An account. Our own class from the first migration, so that it can grow."""


class Visitor(models.Model):
    """One person taking part: an account's visitor, or an anonymous browser session's.

    Conversations and votes belong to a visitor, never to a user directly, so that people can take
    part before they sign up and keep everything when they do. When an account is deleted its visitor stays, as
    nobody's: votes hang on it (see `services.erase_person`).
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="visitor"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.user.get_username() if self.user else f"visitor {str(self.id)[:8]}"


class OwnerLink(models.Model):
    """A one-time link that lets the person at the terminal create the first owner account."""

    token_sha256 = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    used_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"owner link of {self.created_at:%Y-%m-%d %H:%M}"
