"""The web server: uvicorn around webapp.asgi, with the site's limits, in WEB_PROCESSES processes.

    python -m webapp.ops.web --host 0.0.0.0 --port 8000
    python -m webapp.ops.web --fd 5        # a listening socket inherited from `manage.py up`
    python -m webapp.ops.web --port 8000 --check       # exit code 0 if the site there is well

With an inherited socket there is one process, and the port stays open while it is restarted: browsers wait
a moment instead of being refused.
"""

from __future__ import annotations

import argparse
import http.client
import os
import socket
import sys
import tempfile

from webapp.ops.processes import Program, Supervisor, raise_file_limit

BACKLOG = 512
"""Connections the kernel keeps for us before they are accepted."""
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
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    if arguments.fd is not None:
        serve(socket.socket(fileno=arguments.fd))
    else:
        with listen(arguments.host, arguments.port) as listener:
            serve_in_processes(listener)


def listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def serve_in_processes(listener: socket.socket) -> None:
    """One process answers here; more of them are watched from here, and accept from one socket."""
    from django.conf import settings

    if settings.WEB_PROCESSES == 1:
        serve(listener)
        return
    with (
        tempfile.TemporaryDirectory(prefix="stagecraft-metrics-") as metrics_directory,
        Supervisor(cwd=settings.BASE_DIR, grace_s=2 * SHUTDOWN_S) as supervisor,
    ):
        env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": metrics_directory}
        for program in programs(settings.WEB_PROCESSES, listener.fileno(), env):
            supervisor.start(program)
        supervisor.run()


def programs(count: int, listener: int, env: dict[str, str] | None = None) -> list[Program]:
    """The web processes, for a supervisor."""
    return [
        Program(
            name=f"web{number}" if count > 1 else "web",
            command=[sys.executable, "-m", "webapp.ops.web", "--fd", str(listener)],
            env=env,
            pass_fds=(listener,),
        )
        for number in range(1, count + 1)
    ]


def serve(listener: socket.socket) -> None:
    import uvicorn  # not where a site is only started, or asked how it is
    from django.conf import settings

    from webapp.ops import connections

    proxies = settings.TRUSTED_PROXIES
    room = connections.Room(files=raise_file_limit(), proxies=connections.Networks(proxies))
    config = uvicorn.Config(
        "webapp.asgi:application",
        lifespan="off",  # Django has none
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies,
        timeout_graceful_shutdown=SHUTDOWN_S,
        ws_max_size=MAX_FRAME_BYTES,
        **connections.protocols_of(room),
    )
    uvicorn.Server(config).run(sockets=[listener])


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
