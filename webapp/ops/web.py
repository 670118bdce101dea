"""The web server process: uvicorn around webapp.asgi, with the site's limits.

    python -m webapp.ops.web --host 0.0.0.0 --port 8000
    python -m webapp.ops.web --fd 5        # a listening socket inherited from `manage.py up`
    python -m webapp.ops.web --port 8000 --check       # exit code 0 if the site there is well

With an inherited socket the port stays open while this process is restarted: browsers wait a
moment instead of being refused.
"""

from __future__ import annotations

import argparse
import http.client
import os
import socket
import sys

import uvicorn

SHUTDOWN_S = 5
"""How long open answers may go on after SIGTERM; their text is kept and readers re-attach."""
MAX_FRAME_BYTES = 64 * 1024
"""Largest WebSocket frame taken from a browser; ours carry an id or a short command."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m webapp.ops.web", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--fd", type=int, help="listen on this inherited socket instead")
    parser.add_argument("--check", action="store_true", help="only say, by the exit code, whether it is well")
    arguments = parser.parse_args()
    if arguments.check:
        sys.exit(0 if is_well(arguments.port) else 1)
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


def is_well(port: int) -> bool:
    """Whether the site on this machine answers /healthz with 200; asked by container health checks."""
    # By a name it answers to: whatever else is in ALLOWED_HOSTS, "localhost" may not be.
    name = (os.environ.get("ALLOWED_HOSTS") or "localhost").partition(",")[0].strip().lstrip(".")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/healthz", headers={"Host": name})
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    main()
