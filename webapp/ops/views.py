"""What machines ask: is the site well, and how busy is it."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from webapp.ops.health import health_report
from webapp.ops.metrics import metrics as metric_lines


@never_cache
@require_GET
def healthz(request: HttpRequest) -> JsonResponse:
    """For servers that are not webapp/asgi.py, which answers this before it comes here."""
    status, report = health_report()
    return JsonResponse(report, status=status)


@never_cache
@require_GET
def metrics(request: HttpRequest) -> HttpResponse:
    text = "\n".join(metric_lines()) + "\n"
    return HttpResponse(text, content_type="text/plain; version=0.0.4; charset=utf-8")
