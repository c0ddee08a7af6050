"""ipykernel as a session's kernel: what differs from its defaults, and why.

Imported in the kernel zygote alone (it needs the image's ipykernel); `kernel_start` is the way in.
Differences: sockets at fixed paths and no heartbeat; nothing read from or written to the user's
home; output that belongs to the execution whose code made it; exact output at the end of a cell;
plain text without terminal colours.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from ipykernel.zmqshell import ZMQExitAutocall, ZMQInteractiveShell
from IPython.core.profiledir import ProfileDir
from jupyter_client.jsonutil import json_clean, json_default
from traitlets import Type, Unicode, default
from traitlets.config import Config

PORTS = ("shell", "iopub", "stdin", "control")  # a socket's port number is its place here, from 1
INLINE = "module://matplotlib_inline.backend_inline"
SEND_TIME = 0.005  # seconds that libzmq's own thread has to write what it was given
INTERRUPT_GRACE = 0.5  # seconds that a shell command has to obey an interrupt


class Exiter(ZMQExitAutocall):  # type: ignore[misc]
    """exit() and quit() end the cell, as sys.exit() does; the kernel goes on."""

    def __call__(self, code: object = None) -> None:
        raise SystemExit if code is None else SystemExit(code)


class Shell(ZMQInteractiveShell):  # type: ignore[misc]
    """The interactive shell without terminal colours, with shell commands that stream."""

    @default("exiter")
    def _default_exiter(self) -> Exiter:
        return Exiter(self)

    def init_ipython_dir(self, ipython_dir: object) -> None:  # noqa: ARG002
        """A directory that is made by nobody, and not in the user's home."""
        self._trait_values["ipython_dir"] = _profile_dir()

    def init_environment(self) -> None:
        """Pagers off. ipykernel also asks every program for colours here, which nobody will see."""
        os.environ.update(PAGER="cat", GIT_PAGER="cat")

    def drain(self) -> None:
        """Pass on what is still in the pipes of descriptors 1 and 2."""
        self.kernel._stdout.capture.drain()
        self.kernel._stderr.capture.drain()

    def payloadpage_page(self, strg: Any, *_: Any, **__: Any) -> None:
        """Show what would go through a pager (`?name`, `%less`) as a display."""
        self.display_pub.publish(strg if isinstance(strg, dict) else {"text/plain": strg})

    def system_piped(self, cmd: str) -> None:
        """Run `!cmd` with this process's own descriptors, so that its output streams.

        The exit code goes to `_exit_code`. An interrupt goes to everything the command started.
        """
        text = self.var_expand(cmd, depth=1)
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            self.user_ns["_exit_code"] = _run_shell(text)
        finally:
            self.drain()
            importlib.invalidate_caches()  # it may have been pip

    system = system_piped


class Kernel(IPythonKernel):  # type: ignore[misc]
    """The kernel without subshells, whose reply comes when all output has been passed on."""

    shell_class = Type(Shell)
    _supports_kernel_subshells = False  # one thread and one hop less for each message

    async def poll_stopped_queue(self) -> None:
        """There is no debugger."""

    async def execute_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """As always; but an interrupt that comes just before or after the cell's own code is answered too.

        ipykernel would swallow it without a reply, and whoever asked would wait for one.
        """
        try:
            await super().execute_request(stream, ident, parent)
        except KeyboardInterrupt:
            content = {"ename": "KeyboardInterrupt", "evalue": "", "traceback": ["KeyboardInterrupt"]}
            self.send_response(self.iopub_socket, "error", content)
            reply = {**content, "status": "error", "execution_count": self.execution_count}
            self.session.send(stream, "execute_reply", reply, parent, ident=ident)

    async def do_execute(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Execute, then drain descriptors 1 and 2: they belong to this execution."""
        importlib.invalidate_caches()  # a command beside this kernel may have installed packages
        try:
            reply: dict[str, Any] = await super().do_execute(*args, **kwargs)
        finally:
            self.shell.drain()
        return reply


class _NoThread:
    """Stands for ipykernel's shell channel thread: it is false, and names the main thread."""

    def __init__(self) -> None:
        self.parent_thread = threading.main_thread()

    def __bool__(self) -> bool:
        return False


class App(IPKernelApp):  # type: ignore[misc]
    """The application that starts the kernel, its sockets in one directory."""

    name = "ipython-kernel"
    kernel_class = Type(Kernel, klass="ipykernel.kernelbase.Kernel")
    prefix = Unicode()

    def _try_bind_socket(self, s: Any, port: int) -> int:
        name = PORTS[port - 1]
        s.sndhwm = 0  # the relay pushes back; dropping messages would lose output
        s.bind(f"ipc://{self.prefix}{name}")
        return port

    def init_sockets(self) -> None:
        """Bind with mode 0666: the relay runs under another uid."""
        umask = os.umask(0)
        try:
            super().init_sockets()
        finally:
            os.umask(umask)

    def init_control(self, context: Any) -> None:
        super().init_control(context)
        self.shell_channel_thread = _NoThread()

    def init_heartbeat(self) -> None:
        """None: whether the kernel lives, the guest sees better. Saves a context and its threads."""

    def init_connection_file(self) -> None:
        """None: the paths are fixed, and the user's home is not ours to write in."""

    def write_connection_file(self, **_: Any) -> None:
        """None, see `init_connection_file`."""

    def log_connection_info(self) -> None:
        """None, see `init_connection_file`."""

    def load_config_file(self, *_: Any, **__: Any) -> None:
        """None: a file that user code wrote must not break the next kernel."""

    def _run_startup_files(self) -> None:
        """None, see `load_config_file`."""

    @default("profile_dir")
    def _profile_dir_default(self) -> ProfileDir:
        """A profile whose directory is made by nobody until `%store` needs it."""
        profile = ProfileDir()
        profile._trait_values["location"] = _profile_dir()
        return profile

    def init_profile_dir(self) -> None:
        """Nothing to find or make, see above."""

    def init_config_files(self) -> None:
        """None, see `load_config_file`."""


def make_app(prefix: str) -> App:
    """The application with its sockets at `prefix` + name, initialized; `start()` runs it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # until a cell runs
    _repair_matplotlib()
    sys.argv = [""]
    app: App = App.instance(config=_config(), prefix=prefix)
    app.session.key = b""
    app.session.pack = pack
    app.initialize([])
    _let_threads_inherit_context()  # after ipykernel's own threads, which serve every execution
    _flush_before_exit(app.shell)
    warnings.filterwarnings("ignore", message="To exit: use", category=UserWarning)
    return app


def _config() -> Config:
    config = Config()
    for number, name in enumerate(PORTS, 1):
        config.IPKernelApp[f"{name}_port"] = number
    config.IPKernelApp.transport = "ipc"
    config.IPKernelApp.parent_handle = 0
    config.IPKernelApp.outstream_class = "executor_service.guest.ipython_streams.Stream"
    config.IPKernelApp.capture_fd_output = False
    config.IPKernelApp.log_level = 50
    config.Session.key = b""
    config.Kernel._execute_sleep = 0.0  # the reply waits for the output in another way
    config.HistoryManager.enabled = False  # in memory: no database in the user's home, no thread
    config.InteractiveShell.colors = "nocolor"
    return config


def pack(value: object) -> bytes:
    """JSON for any message. Lone surrogates become escapes; ipykernel would lose the message."""
    options: dict[str, Any] = {"default": json_default, "allow_nan": False}
    try:
        try:
            return json.dumps(value, ensure_ascii=False, **options).encode()
        except UnicodeEncodeError:
            return json.dumps(value, **options).encode()
    except (TypeError, ValueError):
        return json.dumps(json_clean(value), **options).encode()


def _let_threads_inherit_context() -> None:
    """What a thread prints belongs to the execution that started the thread (or submitted the work).

    The parent message is a context variable, which new threads do not inherit before Python 3.14;
    ipykernel falls back on the execution of the moment, which may be another one's.
    """
    start, submit = threading.Thread.start, ThreadPoolExecutor.submit

    def start_in_context(thread: threading.Thread) -> None:
        thread.run = partial(contextvars.copy_context().run, thread.run)  # type: ignore[method-assign]
        start(thread)

    def submit_in_context(pool: ThreadPoolExecutor, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return submit(pool, contextvars.copy_context().run, fn, *args, **kwargs)

    threading.Thread.start = start_in_context  # type: ignore[method-assign, assignment]
    ThreadPoolExecutor.submit = submit_in_context  # type: ignore[method-assign, assignment]


def _flush_before_exit(shell: Shell) -> None:
    """Have os._exit send what was printed first."""
    leave, pid = os._exit, os.getpid()

    def flush_and_leave(status: int) -> NoReturn:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
            if os.getpid() == pid:
                shell.drain()
                time.sleep(SEND_TIME)
        leave(status)

    os._exit = flush_and_leave


def _repair_matplotlib() -> None:
    """Make the inline backend the one that the first figure loads, without importing anything.

    pyplot may have been preloaded under agg, and the inline backend only hooks itself into the
    shell while it is imported, so a preloaded one is forgotten.
    """
    if os.environ.get("MPLBACKEND", "agg").lower() == "agg":
        os.environ["MPLBACKEND"] = INLINE
    backend = os.environ["MPLBACKEND"]
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib_inline"]:
        del sys.modules[name]
    matplotlib, pyplot = sys.modules.get("matplotlib"), sys.modules.get("matplotlib.pyplot")
    if matplotlib is not None:
        matplotlib.rcParams["backend"] = backend
    if pyplot is not None and backend == INLINE:
        pyplot.close("all")
        pyplot._backend_mod = None  # type: ignore[attr-defined]


def _run_shell(command: str) -> int:
    shell = os.environ.get("SHELL") or "/bin/sh"
    process = subprocess.Popen([shell, "-c", command], stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait()
    except BaseException:
        for number in (signal.SIGINT, signal.SIGKILL):
            with contextlib.suppress(OSError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(INTERRUPT_GRACE)
        raise


def _profile_dir() -> str:
    return "/tmp/.ipython"  # not `gettempdir`: that wants to write there, and the disk may be full
