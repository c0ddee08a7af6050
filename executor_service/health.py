"""`python -m executor_service.health`: does the service here take work? For a container's health check.

Exit status 0 if `/readyz` says so. Imports next to nothing, because it is run every few seconds.
"""

from __future__ import annotations

import http.client
import os
import sys

TIMEOUT = 7.0


def main() -> int:
    """Ask the service at `CODECELL_PORT` of loopback; what it says goes to stdout, where engines look."""
    port = int(os.environ.get("CODECELL_PORT") or 8700)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read(2000).decode(errors="replace")
    except OSError as error:
        sys.stdout.write(f"no answer on port {port}: {error}\n")
        return 1
    finally:
        connection.close()
    sys.stdout.write(f"{answer.status} {body}\n")
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
