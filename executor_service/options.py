"""Command-line options and `CODECELL_*` environment variables of the service, as Settings.

Each option `--some-name` has the variable `CODECELL_SOME_NAME`; the option wins.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from executor_service import egress_options, keys, state_dir
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

if TYPE_CHECKING:  # what `add_subparsers` gives; argparse has no public name for it
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

KEYS_FILE = "keys"
_YES, _NO = frozenset({"1", "true", "yes", "on"}), frozenset({"", "0", "false", "no", "off"})


class _Adder:
    """Adds options to a parser, each with its variable's value as default."""

    def __init__(self, parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
        self._parser = parser
        self._environ = environ

    def option(self, name: str, default: object, help_text: str, **more: Any) -> None:
        """One that takes a value; a variable that is set to nothing is as one that is not set."""
        value = self._environ.get(variable(name)) or default
        self._parser.add_argument(f"--{name}", default=value, help=help_text, **more)

    def switch(self, name: str, help_text: str) -> None:
        """One that is on or off. Raises SettingsError: the variable is neither."""
        value = self._environ.get(variable(name), "").lower()
        if value not in _YES | _NO:
            raise SettingsError(f"{variable(name)}: say 1 or 0")
        self._parser.add_argument(f"--{name}", action="store_true", default=value in _YES, help=help_text)

    def toggle(self, name: str, help_text: str) -> None:
        """One that is on unless it is said otherwise. Raises SettingsError: the variable is neither."""
        value = self._environ.get(variable(name)) or "1"
        if value.lower() not in _YES | _NO:
            raise SettingsError(f"{variable(name)}: say 1 or 0")
        on = value.lower() in _YES
        kind = argparse.BooleanOptionalAction
        self._parser.add_argument(f"--{name}", action=kind, default=on, help=help_text)


def variable(name: str) -> str:
    """The variable of an option: `CODECELL_SOME_NAME` of `some-name`."""
    return "CODECELL_" + name.upper().replace("-", "_")


def add_state_dir(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """The option that every command has."""
    default = environ.get("CODECELL_STATE_DIR") or state_dir.default(environ)
    parser.add_argument(
        "--state-dir", type=Path, default=Path(default), metavar="DIR", help=f"default: {default}"
    )


def add_backend(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """How sandboxes are made: which backend, which engine, which of its runtimes."""
    option = _Adder(parser, environ).option
    option("backend", "auto", "how sandboxes are made (default auto)", choices=BACKENDS)
    add_docker_host(parser, environ)
    option("runtime", None, "the containers' runtime, such as runsc or kata (default the engine's own)")


def add_docker_host(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """Which container engine."""
    help_text = "address of the container engine (default DOCKER_HOST, else unix:///var/run/docker.sock)"
    _Adder(parser, environ).option("docker-host", None, help_text)


def add_images_build(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """The options of `images build`: for which backend, and what a Docker build needs."""
    adder = _Adder(parser, environ)
    adder.option("backend", "auto", "auto is docker where an engine answers, else local", choices=BACKENDS)
    add_docker_host(parser, environ)
    adder.switch("bootstrap", "make the base from Debian packages: where no image registry is reached")
    adder.option("base-image", None, "what `base` stands on (default debian:trixie-slim)")
    adder.option("build-network", None, "network of the build's steps, such as host")
    adder.option("ca-bundle", None, "certificate authorities for the build (default the host's)")
    parser.add_argument("--rebuild", action="store_true", help="build again what is built")


def add_doctor(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """The options of `doctor`."""
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--image", default="python", metavar="NAME")
    add_state_dir(parser, environ)
    add_backend(parser, environ)


def add_serve(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """The options of `serve`."""
    adder = _Adder(parser, environ)
    option, switch = adder.option, adder.switch
    add_state_dir(parser, environ)
    option("host", DEFAULT_HOST, f"address to listen on (default {DEFAULT_HOST}); others need a key")
    option("port", DEFAULT_PORT, f"port, 0 for any free one (default {DEFAULT_PORT})", type=port_number)
    add_backend(parser, environ)
    option(
        "api-key-file", None, "file of keys, one a line: KEY or NAME KEY; KEY may be sha256:HEX", type=Path
    )
    parser.add_argument("--build", action="store_true", help="build the images first, where they are missing")
    switch("generate-key", "where there is no key yet, make one and show it, this once")
    parser.add_argument(
        "--image", action="append", default=None, metavar="NAME", help="image to offer; again for more"
    )
    option("capacity", 128, "sandboxes alive at most (default 128)", type=_count(1))
    option("warm", 8, "sandboxes kept ready of each kind, --capacity at most (default 8)", type=_count(0))
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
    egress_options.add_egress(parser, environ)
    adder.toggle("durable", "sessions outlive the service, where the backend can do that (default on)")
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
        backend=backend_of(found),
        docker_host=found.docker_host,
        runtime=found.runtime,
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
        durable=found.durable,
        egress=egress_options.ceiling(found, environ),
        ca_bundle=egress_options.ca_bundle(found),
        json_bytes=found.max_body_bytes,
        upload_bytes=found.max_upload_bytes,
        grace=found.grace,
        log_level=found.log_level,
        access_log=found.access_log,
    )


def backend_of(found: argparse.Namespace) -> str:
    """The backend that was asked for. A runtime is a container's: whoever names one gets no other backend.

    Raises:
        SettingsError: there is no such backend, or none with a runtime.
    """
    backend = str(found.backend)
    if backend not in BACKENDS:  # from the environment; argparse looks at options alone
        raise SettingsError(f"CODECELL_BACKEND={backend}: there are {', '.join(BACKENDS)}")
    if found.runtime and backend == "local":
        raise SettingsError(f"--runtime {found.runtime} is for containers, and the backend is local")
    return "docker" if found.runtime else backend


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
