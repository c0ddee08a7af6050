"""JavaScript, by Node.js."""

from __future__ import annotations

from executor_service.languages.base import KernelSpec, Language

TSLAB = "/usr/local/lib/node_modules/tslab/bin/tslab"
"""The kernel of both dialects, where a global installation puts it."""

JAVASCRIPT = Language(
    name="javascript",
    aliases=("js", "node", "nodejs"),
    extensions=(".js", ".mjs", ".cjs"),
    run=("node", "{source}"),
    needs=("node",),
    smoke="const os = require('os');\nos.cpus();\nconsole.log(['codecell', 6 * 7].join(' '));\n",
    version_argv=("node", "--version"),
    env={"NODE_NO_WARNINGS": "1", "NO_UPDATE_NOTIFIER": "1"},
    kernel=KernelSpec(
        argv=("node", TSLAB, "kernel", "--js", "--config-path", "{connection_file}"),
        env={"NODE_NO_WARNINGS": "1"},
        rest=0.25,
        smoke=("let x = 40", "console.log('codecell', x + 2)"),
    ),
)
