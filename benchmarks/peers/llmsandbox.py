"""llm-sandbox over Docker: a container for a session, a copied file and `docker exec` for each run."""

from __future__ import annotations

from llm_sandbox import SandboxSession
from stopwatch import PANDAS, PRINT, Stopwatch, task


def main() -> None:
    given, watch = task(), Stopwatch()
    for number in range(given["sessions"]):
        # Without its own set-up, which would make an environment and install packages from an index; and
        # without a network device, which makes it start faster and is not needed here.
        session = SandboxSession(
            lang="python",
            image=given["image"],
            keep_template=True,
            skip_environment_setup=True,
            runtime_configs={"network_mode": "none"},
        )
        watch.time("start", session.open)
        if number == 0:
            watch.expect("first", lambda: session.run(PRINT).stdout, "1")  # noqa: B023
            for _ in range(given["prints"]):
                watch.expect("print", lambda: session.run(PRINT).stdout, "1")  # noqa: B023
            for _ in range(given["pandas"]):
                watch.expect("pandas", lambda: session.run(PANDAS).stdout, "3")  # noqa: B023
        watch.time("stop", session.close)
    watch.report()


main()
