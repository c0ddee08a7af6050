"""Found first by a service that is to die: it kills itself at the place that `CODECELL_TEST_CRASH` names.

`module:Class.method:before` (or `after`), of an asynchronous method; the process ends as by `kill -9`.
"""

import importlib
import os
import signal
from typing import Any

CRASH = os.environ.get("CODECELL_TEST_CRASH", "")


def _arm(place: str) -> None:
    module, name, when = place.split(":")
    holder: Any = importlib.import_module(module)
    *classes, method = name.split(".")
    for each in classes:
        holder = getattr(holder, each)
    real = getattr(holder, method)

    async def crash(*args: Any, **kwargs: Any) -> None:
        if when == "after":
            await real(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(holder, method, crash)


if CRASH:
    _arm(CRASH)
