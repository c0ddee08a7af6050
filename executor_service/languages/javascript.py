"""JavaScript, by Node.js."""

from __future__ import annotations

from executor_service.languages.base import Language

JAVASCRIPT = Language(
    name="javascript",
    aliases=("js", "node", "nodejs"),
    extensions=(".js", ".mjs", ".cjs"),
    run=("node", "{source}"),
    needs=("node",),
    smoke="const os = require('os');\nos.cpus();\nconsole.log(['codecell', 6 * 7].join(' '));\n",
    version_argv=("node", "--version"),
    env={"NODE_NO_WARNINGS": "1", "NO_UPDATE_NOTIFIER": "1"},
)
