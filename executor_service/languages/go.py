"""Go, with the standard library; its build cache lies in the sandbox's /tmp.

It starts with links to what the image has compiled, if it has: the cache itself must be writable.
"""

from __future__ import annotations

from executor_service.languages.base import Language

_BUILD = """\
ready=/usr/lib/codecell/go-cache
if [ -d "$ready" ] && mkdir "$GOCACHE" 2>/dev/null; then
    cp -rs "$ready/." "$GOCACHE" && date +%s > "$GOCACHE/trim.txt"
fi
exec go build -o "$2" "$1"
"""

GO = Language(
    name="go",
    aliases=("golang",),
    extensions=(".go",),
    compile=("sh", "-c", _BUILD, "sh", "{source}", "{binary}"),
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
    # What is not in the cache yet of the standard library is compiled first.
    limits={"compile_time": 120, "memory_bytes": 1 << 30, "processes": 256},
)
