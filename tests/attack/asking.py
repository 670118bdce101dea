"""Asks a site for one page again and again, from a process of its own: a crowd's threads would slow the clock.

    python -m tests.attack.asking http://127.0.0.1:8000/healthz 400

Prints a list of [status, milliseconds] as JSON, once there are as many as were asked for.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from urllib.parse import urlsplit

EVERY_S = 0.1


def main(url: str, count: int) -> None:
    parts = urlsplit(url)
    found = []
    for _ in range(count):
        connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        began = time.perf_counter()
        connection.request("GET", parts.path)
        with connection.getresponse() as response:
            response.read()
            found.append([response.status, 1000 * (time.perf_counter() - began)])
        connection.close()
        time.sleep(EVERY_S)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
