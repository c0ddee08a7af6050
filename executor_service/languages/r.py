"""R, by Rscript."""

from __future__ import annotations

from executor_service.languages.base import Language

R = Language(
    name="r",
    aliases=("rscript", "rlang"),
    extensions=(".r",),
    run=("Rscript", "--vanilla", "{source}"),
    needs=("Rscript",),
    smoke='cat("codecell", sum(c(40, 2)))\ncat("\\n")\n',
    version_argv=("Rscript", "--version"),
)
