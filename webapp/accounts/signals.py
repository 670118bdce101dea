"""What happens when someone logs in, on whichever page they do it (ours or the admin's)."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.signals import user_logged_in
from django.dispatch import receiver
from django.http import HttpRequest

from .models import User
from .services import merge_session_visitor


@receiver(user_logged_in)
def keep_what_was_done_before(sender: type[User], request: HttpRequest, user: User, **kwargs: Any) -> None:
    merge_session_visitor(request=request, user=user)
