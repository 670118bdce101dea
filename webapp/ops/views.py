"""What machines ask: is the site well, and how busy is it."""

from __future__ import annotations

import secrets

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from webapp.ops.health import health_report
from webapp.ops.metrics import exposition


@never_cache
@require_GET
def healthz(request: HttpRequest) -> JsonResponse:
    """For servers that are not webapp/asgi.py, which answers this before it comes here."""
    status, report = health_report()
    return JsonResponse(report, status=status)


@never_cache
@require_GET
def metrics(request: HttpRequest) -> HttpResponse:
    """For whoever sends METRICS_KEY as a bearer token, and for the owner's browser."""
    if not (_has_key(request) or request.user.is_superuser):
        refusal = HttpResponse("Send METRICS_KEY as a bearer token, or log in as the owner.\n", status=401)
        refusal["WWW-Authenticate"] = "Bearer"
        return refusal
    return HttpResponse(exposition(), content_type=CONTENT_TYPE_PLAIN_0_0_4)


def _has_key(request: HttpRequest) -> bool:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    right = settings.METRICS_KEY.encode()
    return bool(right) and scheme.lower() == "bearer" and secrets.compare_digest(key.strip().encode(), right)
