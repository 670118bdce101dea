"""A worker process: Celery with the options this site means.

    python -m webapp.ops.worker generate           # writes answers, many at a time
    python -m webapp.ops.worker train              # runs one training run at a time
    python -m webapp.ops.worker train --check      # exit code 0 if this machine's worker is alive

Threads, not processes: the generate worker's threads share one engine that batches their requests,
and the train worker's only watches a subprocess.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys

THREADS = {"generate": 64, "train": 1}
"""Tasks a worker of each queue does at the same time."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m webapp.ops.worker", description=__doc__)
    parser.add_argument("queue", choices=sorted(THREADS))
    parser.add_argument("--check", action="store_true", help="only say, by the exit code, whether one runs here")
    arguments = parser.parse_args()
    if arguments.check:
        sys.exit(0 if is_alive(arguments.queue) else 1)
    run(arguments.queue)


def node_name(queue: str) -> str:
    return f"{queue}@{socket.gethostname()}"


def run(queue: str) -> None:
    from webapp.celery import app

    options = ["-Q", queue, "-n", node_name(queue), "--pool", "threads", "-c", str(THREADS[queue])]
    # Workers that talk to one another cost messages and give this site nothing.
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO"]
    app.worker_main(["--quiet", "worker", *options, *quiet])


def is_alive(queue: str) -> bool:
    """Whether this machine's worker of the queue has ticked lately (see webapp/ops/periodic.py)."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    from webapp.live import streams
    from webapp.ops import periodic

    return bool(streams.client().exists(periodic.alive_key(queue, node_name(queue))))


if __name__ == "__main__":
    main()
