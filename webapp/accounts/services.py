"""Who takes part: a visitor for every person, merged into the account they log in to; the first owner."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping
from datetime import timedelta
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib import auth
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import IntegrityError, models, transaction
from django.db.models import Q
from django.db.models.fields.reverse_related import ForeignObjectRel
from django.dispatch import Signal
from django.http import HttpRequest
from django.utils import timezone

from .models import OwnerLink, User, Visitor

SESSION_KEY = "visitor_id"
LOGGED_IN_AT = "logged_in_at"
"""In a session: when the password was typed, in seconds since the epoch."""
OWNER_LINK_LIVES = timedelta(hours=24)


class LinkSpent(ValueError):
    """The owner link is unknown, too old, replaced by a newer one or used, or the site has an owner by now."""


class NameTaken(ValueError):
    """Somebody has an account of this name by now."""


# -- accounts --------------------------------------------------------------------------------------


def create_account(*, username: str, password: str) -> User:
    """A new account without any rights. Raises NameTaken if somebody was first."""
    try:
        with transaction.atomic():
            return User.objects.create_user(username=username, password=password)
    except IntegrityError as error:
        raise NameTaken("A user with that username already exists.") from error


def remember_log_in(request: HttpRequest) -> None:
    request.session[LOGGED_IN_AT] = int(time.time())


def user_of(request: HttpRequest) -> AbstractBaseUser | AnonymousUser:
    """Who is logged in with this session. Staff only for STAFF_SESSION_S after they typed their password.

    A visitor's session lasts a year, so that their chats are still there; one that may start training and read
    everybody's votes should not lie about in a browser for as long.
    """
    user = auth.get_user(request)
    if not getattr(user, "is_staff", False):
        return user
    age_s = time.time() - request.session.get(LOGGED_IN_AT, 0)
    return user if age_s < settings.STAFF_SESSION_S else AnonymousUser()


# -- visitors --------------------------------------------------------------------------------------


def visitor_for(request: HttpRequest, *, create: bool) -> Visitor | None:
    """The visitor behind a request; None for a newcomer unless `create` (a first write) makes one.

    A row is made on the first write only, so crawlers and health checks leave none behind.
    """
    known: Visitor | None = getattr(request, "_known_visitor", None)
    if known is None:
        known = _find_visitor(request) or (_create_visitor(request) if create else None)
        request._known_visitor = known  # type: ignore[attr-defined]  # this request's cache
    return known


def _find_visitor(request: HttpRequest) -> Visitor | None:
    if request.user.is_authenticated:
        return Visitor.objects.filter(user=request.user).select_related("user").first()
    visitor_id = request.session.get(SESSION_KEY)
    # `user=None`: an id that has since become an account's opens nothing without logging in.
    return Visitor.objects.filter(pk=visitor_id, user=None).first() if visitor_id else None


def _create_visitor(request: HttpRequest) -> Visitor:
    if request.user.is_authenticated:
        return Visitor.objects.get_or_create(user=request.user)[0]
    visitor = Visitor.objects.create()
    request.session[SESSION_KEY] = str(visitor.pk)
    return visitor


def request_for_scope(scope: Mapping[str, Any]) -> HttpRequest:
    """A bare request with a socket's session and user, read from the database now.

    A socket lives for hours: asking again must notice a logout, a demotion or a deactivation, so
    nothing cached when the socket opened is used.
    """
    request = HttpRequest()
    opened = scope.get("session")
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(opened.session_key if opened else None)
    request.user = user_of(request)
    return request


def visitor_for_scope(scope: Mapping[str, Any]) -> Visitor | None:
    """The visitor behind a WebSocket, as of now. Touches the database: call in a thread."""
    return visitor_for(request_for_scope(scope), create=False)


def merge_session_visitor(*, request: HttpRequest, user: User) -> None:
    """Give an account what its person did in this session before logging in."""
    visitor_id = request.session.pop(SESSION_KEY, None)
    request._known_visitor = None  # type: ignore[attr-defined]  # it was the anonymous one
    if visitor_id is None:
        return
    with transaction.atomic():
        # Locked, so that a write still under way in another tab lands before the move or fails.
        anonymous = Visitor.objects.select_for_update().filter(pk=visitor_id, user=None).first()
        if anonymous is None:
            return
        account = Visitor.objects.filter(user=user).first()
        if account is None:
            anonymous.user = user
            anonymous.save(update_fields=["user"])
        else:
            _move_everything(anonymous, account)
            anonymous.delete()


def _move_everything(source: Visitor, target: Visitor) -> None:
    """Point every row that references `source` at `target`.

    Works on whatever relations the apps above have declared. A row that a unique constraint allows
    only once per visitor (a vote on the same pair) is dropped: what the account did first stands.
    """
    for relation in Visitor._meta.related_objects:
        rows = _rows(relation, source)
        name = relation.field.name
        try:
            with transaction.atomic():
                rows.update(**{name: target})
        except IntegrityError:
            for row in rows:
                try:
                    with transaction.atomic():
                        rows.filter(pk=row.pk).update(**{name: target})
                except IntegrityError:
                    row.delete()


def _rows(relation: ForeignObjectRel, visitor: Visitor) -> models.QuerySet[Any]:
    related: type[models.Model] = relation.related_model
    return related._base_manager.filter(**{relation.field.name: visitor})


# -- leaving -----------------------------------------------------------------------------------------

before_erasure = Signal()
"""Sent with `visitor` while everything of theirs is still there: what they lent to others is taken back."""
erasure = Signal()
"""Sent with `visitor`: apps delete what they keep of this person, other than votes."""


@transaction.atomic
def erase_person(*, visitor: Visitor) -> None:
    """Delete what a person wrote; their votes stay, on a visitor nobody can become any more.

    An answer somebody voted on stays with its vote, and with the messages it answered: without them the vote would
    say nothing.
    """
    before_erasure.send(Visitor, visitor=visitor)
    erasure.send(Visitor, visitor=visitor)
    Visitor.objects.filter(pk=visitor.pk).update(user=None)


# -- the first owner -------------------------------------------------------------------------------


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _site_has_owner() -> bool:
    """Whether somebody can let others in: an owner who was deactivated cannot."""
    return User.objects.filter(is_superuser=True, is_active=True).exists()


def _open_links(token: str) -> models.QuerySet[OwnerLink]:
    """The link with this token, unless it is used, replaced or from more than OWNER_LINK_LIVES ago."""
    since = timezone.now() - OWNER_LINK_LIVES
    return OwnerLink.objects.filter(token_sha256=_digest(token), used_at=None, created_at__gt=since)


def create_owner_link() -> str | None:
    """A fresh one-time token, replacing any unused one; None while the site has an owner."""
    if _site_has_owner():
        return None
    token = secrets.token_urlsafe(24)
    with transaction.atomic():
        OwnerLink.objects.filter(used_at=None).delete()
        OwnerLink.objects.create(token_sha256=_digest(token))
    return token


def owner_link_is_open(token: str) -> bool:
    return not _site_has_owner() and _open_links(token).exists()


def create_owner(*, token: str, username: str, password: str) -> User:
    """Spend the link and create the owner. Raises LinkSpent if somebody was first, by this link or another way."""
    with transaction.atomic():
        # The row count decides: of two people with the same link, one gets a 1 here.
        if not _open_links(token).update(used_at=timezone.now()) or _site_has_owner():
            raise LinkSpent
        try:
            with transaction.atomic():
                return User.objects.create_superuser(username=username, password=password)
        except IntegrityError as error:
            raise NameTaken("A user with that username already exists.") from error


def drop_dead_links() -> int:
    """Delete owner links that open nothing any more; returns how many."""
    dead = Q(created_at__lte=timezone.now() - OWNER_LINK_LIVES) | Q(used_at__isnull=False)
    return OwnerLink.objects.filter(dead).delete()[0]
