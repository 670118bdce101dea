"""Accounts, the owner's first visit and the theme."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.conf import settings
from django.contrib.auth import login
from django.contrib.auth.views import LoginView, LogoutView
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from webapp.htmx import is_htmx
from webapp.live import origins

from . import limits, services
from .context import THEME_COOKIE, THEMES
from .forms import AccountForm
from .models import User

logger = logging.getLogger(__name__)
BACKEND = "django.contrib.auth.backends.ModelBackend"

View = Callable[..., HttpResponseBase]


def unless_guessing(view: View) -> View:
    """A log-in page that takes no more names from an address where many have failed (see `signals.count_failure`)."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.method == "POST" and not limits.has_room("login", request):
            return render(request, "accounts/locked.html", status=429)
        return view(request, *args, **kwargs)

    return guarded


log_in = unless_guessing(LoginView.as_view(template_name="accounts/login.html", redirect_authenticated_user=True))
log_out = LogoutView.as_view()


@never_cache
@sensitive_post_parameters()
def sign_up(request: HttpRequest) -> HttpResponse:
    """A new account, which keeps what this browser did so far."""
    if request.user.is_authenticated:
        return redirect(settings.LOGIN_REDIRECT_URL)
    form = AccountForm(request.POST or None)
    if request.method == "POST" and form.is_valid() and (account := _new_account(request, form)):
        login(request, account, backend=BACKEND)
        return redirect(_next(request))
    return render(request, "accounts/signup.html", {"form": form, "next": request.GET.get("next", "")})


def _new_account(request: HttpRequest, form: AccountForm) -> User | None:
    """The account somebody asks for, or None with the form's errors filled in."""
    if not limits.allow("signup", request):
        form.add_error(None, "Too many new accounts from this address. Try again in an hour.")
        return None
    try:
        return services.create_account(username=form.cleaned_data["username"], password=form.cleaned_data["password1"])
    except services.NameTaken as error:  # since the form looked: the second of two clicks
        form.add_error("username", str(error))
        return None


@never_cache
@sensitive_post_parameters()
def set_up(request: HttpRequest, token: str) -> HttpResponse:
    """The first owner's account, through the one-time link `manage.py up` printed."""
    if not services.owner_link_is_open(token):
        return render(request, "accounts/setup.html", {"form": None}, status=404)
    form = AccountForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            owner = services.create_owner(
                token=token, username=form.cleaned_data["username"], password=form.cleaned_data["password1"]
            )
        except services.NameTaken as error:  # since the form looked; the link is still good
            form.add_error("username", str(error))
            return render(request, "accounts/setup.html", {"form": form})
        except services.LinkSpent:
            return render(request, "accounts/setup.html", {"form": None}, status=404)
        login(request, owner, backend=BACKEND)
        return redirect(settings.LOGIN_REDIRECT_URL)
    return render(request, "accounts/setup.html", {"form": form})


@require_POST
def set_theme(request: HttpRequest) -> HttpResponse:
    """Remember light or dark in a cookie; anything else goes back to following the system."""
    response = redirect(_next(request))
    theme = request.POST.get("theme", "")
    if theme in THEMES:
        response.set_cookie(
            THEME_COOKIE,
            theme,
            max_age=settings.SESSION_COOKIE_AGE,
            secure=settings.HTTPS,
            httponly=True,
            samesite="Lax",
        )
    else:
        response.delete_cookie(THEME_COOKIE, samesite="Lax")
    return response


@never_cache
def refuse_stale_form(request: HttpRequest, reason: str = "") -> HttpResponse:
    """What Django answers to a form without a good CSRF token: mostly a page from before somebody logged in or out.

    But where it is the page's origin that Django does not know, a setting is wrong (or another site sent the form),
    and no reload helps.
    """
    if not reason.startswith(("Origin checking failed", "Referer checking failed")):
        return render(request, "403.html", {"form_is_stale": True}, status=403)
    explanation = origins.explain(request)
    logger.warning("A form for %s was refused. %s", request.path, explanation)
    if is_htmx(request):  # and what our scripts send themselves: they show a sentence, not a page
        text = f"Not accepted: the site does not know this page's address as its own. {explanation}"
        return HttpResponse(text, content_type="text/plain; charset=utf-8", status=403)
    return render(request, "403.html", {"form_is_foreign": explanation}, status=403)


def _next(request: HttpRequest) -> str:
    """Where the form wants to go afterwards, if that is on this site."""
    target = request.POST.get("next", "")
    ours = url_has_allowed_host_and_scheme(
        target, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return target if ours else settings.LOGIN_REDIRECT_URL
