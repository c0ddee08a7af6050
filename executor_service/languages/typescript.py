"""TypeScript, checked and compiled by tsc, run by Node.js as CommonJS.

tsc looks for Node's own types where a global installation puts them.
"""

from __future__ import annotations

from executor_service.languages.base import KernelSpec, Language
from executor_service.languages.javascript import TSLAB

_SMOKE = """\
import * as os from 'os';
interface Answer { value: number }
const cpus: number = os.cpus().length;
const answer: Answer = { value: 42 };
console.log(`codecell ${cpus > 0 ? answer.value : cpus}`);
"""

TYPESCRIPT = Language(
    name="typescript",
    aliases=("ts",),
    extensions=(".ts", ".mts", ".cts"),
    compile=(
        "tsc",
        "--target",
        "es2022",
        "--module",
        "commonjs",
        "--moduleResolution",
        "node10",
        "--esModuleInterop",
        "--strict",
        "false",
        "--skipLibCheck",
        "--typeRoots",
        "node_modules/@types,/usr/local/lib/node_modules/@types,/usr/share/nodejs/@types",
        "--outDir",
        "{binary}",
        "{source}",
    ),
    run=("node", "{binary}/main.js"),
    needs=("tsc", "node"),
    smoke=_SMOKE,
    version_argv=("tsc", "--version"),
    env={"NODE_NO_WARNINGS": "1", "NO_UPDATE_NOTIFIER": "1"},
    kernel=KernelSpec(
        argv=("node", TSLAB, "kernel", "--config-path", "{connection_file}"),
        env={"NODE_NO_WARNINGS": "1"},
        rest=0.25,
        smoke=("let x: number = 40", "console.log('codecell', x + 2)"),
    ),
)
