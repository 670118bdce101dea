"""Every address of the site."""

from django.contrib import admin
from django.urls import include, path

from webapp.accounts.views import unless_guessing

admin.site.login = unless_guessing(admin.site.login)  # type: ignore[method-assign]

urlpatterns = [
    path("", include("webapp.stages.urls")),  # / · /stages/<slug>/ · /compare/
    path("", include("webapp.accounts.urls")),  # /setup/<token>/ · /login/ · /logout/
    path("", include("webapp.ops.urls")),  # /healthz · /metrics
    path("chat/", include("webapp.chat.urls")),
    path("", include("webapp.arena.urls")),  # /vote/ · /leaderboard/
    path("runs/", include("webapp.training.urls")),
    path("admin/", admin.site.urls),
]
