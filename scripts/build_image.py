"""Build a sandbox image with a line for each step; nothing is said where it is built already."""

from __future__ import annotations

import sys

from executor_service.image_build import ImageBuildError, build
from executor_service.images import definitions


def main() -> int:
    """The image named on the command line."""
    try:
        build(
            definitions()[sys.argv[1]],
            progress=lambda line: print(f"    {line}", file=sys.stderr, flush=True),
        )
    except ImageBuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
