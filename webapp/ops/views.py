"""What machines ask: is the site well, and how busy is it."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from webapp.ops.health import check_health
from webapp.ops.metrics import metrics as metric_lines


@never_cache
@require_GET
def healthz(request: HttpRequest) -> JsonResponse:
    checks = check_health()
    well = all(outcome == "ok" for outcome in checks.values())
    return JsonResponse({"status": "ok" if well else "failing", "checks": checks}, status=200 if well else 503)


@never_cache
@require_GET
def metrics(request: HttpRequest) -> HttpResponse:
    text = "\n".join(metric_lines()) + "\n"
    return HttpResponse(text, content_type="text/plain; version=0.0.4; charset=utf-8")
