"""`python -m executor_service` is the command `codecell-executor`."""

from __future__ import annotations

import sys

from executor_service.cli import main

if __name__ == "__main__":
    sys.exit(main())
