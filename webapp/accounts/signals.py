"""What happens when someone logs in, fails to, or is deleted, on whichever page (ours or the admin's)."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.signals import user_logged_in, user_login_failed
from django.db.models.signals import pre_delete
from django.dispatch import receiver
from django.http import HttpRequest

from . import limits
from .models import User, Visitor
from .services import erase_person, merge_session_visitor, remember_log_in


@receiver(user_logged_in)
def keep_what_was_done_before(sender: type[User], request: HttpRequest, user: User, **kwargs: Any) -> None:
    merge_session_visitor(request=request, user=user)
    remember_log_in(request)


@receiver(user_login_failed)
def count_failure(sender: Any, request: HttpRequest | None = None, **kwargs: Any) -> None:
    """Whatever name was tried: somebody with a list of names and passwords never fails twice as the same one."""
    if request is not None:
        limits.allow("login", request)


@receiver(pre_delete, sender=User)
def erase_whose_account_goes(sender: type[User], instance: User, **kwargs: Any) -> None:
    if visitor := Visitor.objects.filter(user=instance).first():
        erase_person(visitor=visitor)
