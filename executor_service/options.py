"""Command-line options and `CODECELL_*` environment variables of the service, as Settings.

Each option `--some-name` has the variable `CODECELL_SOME_NAME`; the option wins.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from executor_service import keys, state_dir
from executor_service.api.access import is_loopback
from executor_service.limits import Limits, default_ceiling
from executor_service.settings import (
    BACKENDS,
    DEFAULT_HOST,
    DEFAULT_PORT,
    Settings,
    SettingsError,
    parse_limits,
)

KEYS_FILE = "keys"
_YES, _NO = frozenset({"1", "true", "yes", "on"}), frozenset({"", "0", "false", "no", "off"})


def add_state_dir(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """The option that every command has."""
    default = environ.get("CODECELL_STATE_DIR") or state_dir.default(environ)
    parser.add_argument(
        "--state-dir", type=Path, default=Path(default), metavar="DIR", help=f"default: {default}"
    )


def add_serve(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """The options of `serve`."""

    def option(name: str, default: object, help_text: str, **more: object) -> None:
        value = environ.get("CODECELL_" + name.upper().replace("-", "_"), default)
        parser.add_argument(f"--{name}", default=value, help=help_text, **more)  # type: ignore[arg-type]

    def switch(name: str, help_text: str) -> None:
        value = environ.get("CODECELL_" + name.upper().replace("-", "_"), "").lower()
        if value not in _YES | _NO:
            raise SettingsError(f"CODECELL_{name.upper().replace('-', '_')}: say 1 or 0")
        parser.add_argument(f"--{name}", action="store_true", default=value in _YES, help=help_text)

    add_state_dir(parser, environ)
    option("host", DEFAULT_HOST, f"address to listen on (default {DEFAULT_HOST}); others need a key")
    option("port", DEFAULT_PORT, f"port, 0 for any free one (default {DEFAULT_PORT})", type=port_number)
    option("backend", "auto", "how sandboxes are made (default auto)", choices=BACKENDS)
    option(
        "api-key-file", None, "file of keys, one a line: KEY or NAME KEY; KEY may be sha256:HEX", type=Path
    )
    parser.add_argument(
        "--image", action="append", default=None, metavar="NAME", help="image to offer; again for more"
    )
    option("capacity", 128, "sandboxes alive at most (default 128)", type=_count(1))
    option("warm", 8, "sandboxes kept ready of each kind (default 8)", type=_count(0))
    option("queue", 256, "requests waiting for a sandbox at most (default 256)", type=_count(0))
    option("acquire-timeout", 10.0, "seconds to wait for a sandbox (default 10)", type=seconds)
    option("grace", 10.0, "seconds for running work after SIGTERM (default 10)", type=seconds)
    option("max-body-bytes", 32 << 20, "longest JSON body (default 32 MiB)", type=_count(1))
    option("max-upload-bytes", 2 << 30, "longest file or archive (default 2 GiB)", type=_count(1))
    option("session-ttl", 3600.0, "seconds a session lives by default (3600)", type=seconds)
    option("max-session-ttl", 86400.0, "seconds a session may live at most (86400)", type=seconds)
    option("session-idle-ttl", 600.0, "seconds a session may be idle by default (600)", type=seconds)
    for name, word in (("limit", "default"), ("max-limit", "ceiling")):
        parser.add_argument(
            f"--{name}",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help=f"a limit's {word}, such as wall_time=60; again for more",
        )
    switch("public-metrics", "answer /metrics without a key")
    switch("public-docs", "answer /docs and /openapi.json without a key")
    switch("access-log", "log every request")
    parser.add_argument(
        "--until-stdin-closes",
        action="store_true",
        help="stop when standard input ends: for a service that belongs to the program that starts it",
    )
    option(
        "log-level", "info", "debug, info, warning or error", choices=("debug", "info", "warning", "error")
    )


def to_settings(found: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    """The settings that options and variables make.

    Raises:
        SettingsError: they make no sense together.
        KeyFileError: a key file cannot be read.
    """
    files = [found.state_dir / KEYS_FILE]
    if found.api_key_file is not None:
        keys.read(found.api_key_file)  # a file that is named must be there
        files.append(found.api_key_file)
    images = found.image or (environ.get("CODECELL_IMAGE") or "python").replace(",", " ").split()
    ceiling = parse_limits(_pairs(found.max_limit, "--max-limit"), base=default_ceiling(), what="--max-limit")
    limits = parse_limits(_pairs(found.limit, "--limit"), base=Limits(), what="--limit")
    _check_ceiling(limits, ceiling)
    return Settings(
        host=found.host,
        port=found.port,
        backend=found.backend,
        state_dir=found.state_dir,
        images=tuple(dict.fromkeys(images)),
        keys=environment_keys(environ),
        key_files=tuple(files),
        public_metrics=found.public_metrics,
        public_docs=found.public_docs,
        capacity=found.capacity,
        warm=min(found.warm, found.capacity),
        queue=found.queue,
        acquire_timeout=found.acquire_timeout,
        limits=limits,
        ceiling=ceiling,
        ttl=min(found.session_ttl, found.max_session_ttl),
        max_ttl=found.max_session_ttl,
        idle_ttl=found.session_idle_ttl,
        json_bytes=found.max_body_bytes,
        upload_bytes=found.max_upload_bytes,
        grace=found.grace,
        log_level=found.log_level,
        access_log=found.access_log,
    )


def environment_keys(environ: Mapping[str, str]) -> tuple[keys.Key, ...]:
    """The keys in `CODECELL_API_KEY` and, separated by commas, in `CODECELL_API_KEYS`."""
    words = [environ.get("CODECELL_API_KEY", ""), *environ.get("CODECELL_API_KEYS", "").split(",")]
    text = "\n".join(word.strip() for word in words)
    return keys.parse(text, source="CODECELL_API_KEY or CODECELL_API_KEYS")


def check_address(host: str, ring: keys.KeyRing) -> None:
    """Raises SettingsError: others could reach the service, and no key is set."""
    if ring.required or is_loopback(host):
        return
    raise SettingsError(
        f"--host {host}: without a key the service listens on loopback only; "
        "add a key (codecell-executor keys add NAME) or name a file with --api-key-file"
    )


def _check_ceiling(limits: Limits, ceiling: Limits) -> None:
    for name in Limits.__dataclass_fields__:
        value, most = getattr(limits, name), getattr(ceiling, name)
        if value is not None and value > most:
            raise SettingsError(f"the default of {name} is {value:g}, over its ceiling {most:g}")


def _pairs(words: list[str], what: str) -> dict[str, str]:
    found = dict(word.partition("=")[::2] for word in words)
    if any("=" not in word for word in words):
        raise SettingsError(f"{what}: say NAME=VALUE")
    return found


def port_number(text: str) -> int:
    """Raises ValueError, ArgumentTypeError: no port."""
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is no port")
    return port


def _count(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}")
        return number

    count.__name__ = "number"  # argparse says it in errors
    return count


def seconds(text: str) -> float:
    """Raises ValueError, ArgumentTypeError: no finite number, or below zero."""
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError("must be a finite number, not below zero")
    return number
