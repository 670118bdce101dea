"""What happens when someone logs in, or an account changes, on whichever page (ours or the admin's)."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.signals import user_logged_in
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver
from django.http import HttpRequest

from webapp.live.rights import announce

from .models import User
from .services import merge_session_visitor


@receiver(user_logged_in)
def keep_what_was_done_before(sender: type[User], request: HttpRequest, user: User, **kwargs: Any) -> None:
    merge_session_visitor(request=request, user=user)


@receiver([post_save, post_delete], sender=User)
def say_that_rights_may_have_changed(sender: type[User], instance: User, **kwargs: Any) -> None:
    """Deactivated, demoted, deleted, given another password: what the account has open looks whether it may stay."""
    announce(f"user:{instance.pk}")
