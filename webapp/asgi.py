"""ASGI entry point: pages over HTTP, tokens and progress over WebSockets."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
django.setup(set_prefix=False)  # first: it loads the apps the routes below import

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.sessions import SessionMiddlewareStack  # noqa: E402
from django.urls import re_path  # noqa: E402

from webapp.chat.routing import websocket_urlpatterns as chat_sockets  # noqa: E402
from webapp.live.origins import refuse, same_origin  # noqa: E402
from webapp.ops.health import health_first  # noqa: E402
from webapp.ops.one_thread import OneThreadHandler  # noqa: E402
from webapp.training.routing import websocket_urlpatterns as run_sockets  # noqa: E402

any_other = re_path("", refuse)  # type: ignore[arg-type]  # channels' routes are Django's, and hold ASGI applications

# No user in the scope: a socket lives for hours, and consumers ask who is there when it matters.
application = ProtocolTypeRouter(
    {
        "http": health_first(OneThreadHandler()),
        "websocket": same_origin(SessionMiddlewareStack(URLRouter([*chat_sockets, *run_sockets, any_other]))),
    }
)
