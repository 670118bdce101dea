"""Who asks: `request.user`, as Django sets it, but for staff whose log-in is too long ago."""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.contrib.auth import middleware
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from .services import user_of


class AuthenticationMiddleware(middleware.AuthenticationMiddleware):
    def process_request(self, request: HttpRequest) -> None:
        async def auser() -> AbstractBaseUser | AnonymousUser:
            return await sync_to_async(lambda: request.user)()

        request.user = SimpleLazyObject(lambda: user_of(request))  # type: ignore[assignment]
        request.auser = auser  # type: ignore[assignment]
