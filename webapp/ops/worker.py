"""A worker process: Celery with the options this site means.

    python -m webapp.ops.worker generate           # writes answers, many at a time
    python -m webapp.ops.worker train              # runs one training run at a time
    python -m webapp.ops.worker train --check      # exit code 0 if this machine's worker is alive

Threads, not processes: the generate worker's threads share one engine that batches their requests,
and the train worker's only watches a subprocess. Both do chores, in threads kept for them: whichever
is there and free. How many threads each queue has stands in webapp/ops/lanes.py.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys

from webapp.ops.queues import BACKGROUND, CHAT, CHORES, FORMER, TRAIN

QUEUES_OF = {"generate": (CHORES, CHAT, FORMER, BACKGROUND), "train": (CHORES, TRAIN)}
"""What each kind of worker takes."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m webapp.ops.worker", description=__doc__)
    parser.add_argument("kind", choices=sorted(QUEUES_OF))
    parser.add_argument("--check", action="store_true", help="only say, by the exit code, whether one runs here")
    arguments = parser.parse_args()
    if arguments.check:
        sys.exit(0 if is_alive(arguments.kind) else 1)
    run(arguments.kind)


def node_name(kind: str) -> str:
    return f"{kind}@{socket.gethostname()}"


def run(kind: str) -> None:
    from webapp.celery import app
    from webapp.ops.lanes import THREADS

    threads = sum(THREADS.get(queue, 0) for queue in QUEUES_OF[kind])
    queues = ["-Q", ",".join(QUEUES_OF[kind])]
    options = [*queues, "-n", node_name(kind), "--pool", "threads", "-c", str(threads)]
    # Workers that talk to one another cost messages and give this site nothing.
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO"]
    app.worker_main(["--quiet", "worker", *options, *quiet])


def is_alive(kind: str) -> bool:
    """Whether this machine's worker of this kind has ticked lately (see webapp/ops/periodic.py)."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    from webapp.live import streams
    from webapp.ops import periodic

    return bool(streams.client().exists(periodic.alive_key(CHORES, node_name(kind))))


if __name__ == "__main__":
    main()
