"""Go, with the standard library; its build cache lies in the sandbox's /tmp and starts empty."""

from __future__ import annotations

from executor_service.languages.base import Language

GO = Language(
    name="go",
    aliases=("golang",),
    extensions=(".go",),
    compile=("go", "build", "-o", "{binary}", "{source}"),
    run=("{binary}",),
    needs=("go",),
    smoke='package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("codecell", 6*7) }\n',
    version_argv=("go", "version"),
    env={
        "GOCACHE": "/tmp/go-cache",
        "GOFLAGS": "-buildvcs=false",
        "GOPATH": "/tmp/go",
        "GOTELEMETRY": "off",
        "GOTOOLCHAIN": "local",
    },
    # Newer toolchains compile the standard library into the empty cache first.
    limits={"compile_time": 120, "memory_bytes": 1 << 30, "processes": 256},
)
