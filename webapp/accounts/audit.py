"""Who did what: a line in the admin's history and one in the log, for everything staff do outside the admin's forms.

The admin writes its own lines for what is typed into its forms. The line in the log stays when an account is deleted.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import Model

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import AnonymousUser

logger = logging.getLogger("webapp.audit")


def audit(user: AbstractBaseUser | AnonymousUser | None, message: str, *, on: Model | None = None) -> None:
    """Remember that `user` (None: somebody at the terminal) did this, `on` a row if there is one."""
    name = user.get_username() if user is not None and user.is_authenticated else "the terminal"
    logger.info("%s: %s%s", name, message, f" ({on._meta.verbose_name} {on.pk})" if on is not None else "")
    if user is None or user.pk is None:
        return
    LogEntry.objects.create(
        user_id=user.pk,
        content_type=ContentType.objects.get_for_model(on) if on is not None else None,
        object_id=str(on.pk) if on is not None else None,
        object_repr=str(on)[:200] if on is not None else "",
        action_flag=CHANGE,
        change_message=message,
    )
