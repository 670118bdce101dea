"""The web server process: uvicorn around webapp.asgi, with the site's limits.

    python -m webapp.web --host 0.0.0.0 --port 8000
    python -m webapp.web --fd 5        # a listening socket inherited from `manage.py up`

With an inherited socket the port stays open while this process is restarted: browsers wait a
moment instead of being refused.
"""

from __future__ import annotations

import argparse
import socket

import uvicorn

SHUTDOWN_S = 5
"""How long open answers may go on after SIGTERM; their text is kept and readers re-attach."""
MAX_FRAME_BYTES = 64 * 1024
"""Largest WebSocket frame taken from a browser; ours carry an id or a short command."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m webapp.web", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--fd", type=int, help="listen on this inherited socket instead")
    arguments = parser.parse_args()
    config = uvicorn.Config(
        "webapp.asgi:application",
        host=arguments.host,
        port=arguments.port,
        lifespan="off",  # Django has none
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
        ws_max_size=MAX_FRAME_BYTES,
    )
    sockets = None if arguments.fd is None else [socket.socket(fileno=arguments.fd)]
    uvicorn.Server(config).run(sockets=sockets)


if __name__ == "__main__":
    main()
