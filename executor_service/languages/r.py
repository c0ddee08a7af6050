"""R, by Rscript."""

from __future__ import annotations

from executor_service.languages.base import KernelSpec, Language

R = Language(
    name="r",
    aliases=("rscript", "rlang"),
    extensions=(".r",),
    run=("Rscript", "--vanilla", "{source}"),
    needs=("Rscript",),
    smoke='cat("codecell", sum(c(40, 2)))\ncat("\\n")\n',
    version_argv=("Rscript", "--version"),
    kernel=KernelSpec(
        argv=("R", "--slave", "--vanilla", "-e", "IRkernel::main()", "--args", "{connection_file}"),
        smoke=("x <- 40", 'cat("codecell ", x + 2, "\\n", sep = "")'),
    ),
)
