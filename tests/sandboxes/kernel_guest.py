"""A guest without walls, for the tests of kernels: `python kernel_guest.py REPO SOCKET [module ...]`.

Run by the image's interpreter: preloads, then serves `kernel` and `kernel_signal` on a Unix socket,
each connection in a fork, as the real guest does.
"""

import importlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile


def main() -> None:
    """Serve until killed."""
    sys.path.insert(0, sys.argv[1])
    for name in sys.argv[3:]:
        importlib.import_module(name)
    from executor_service.guest import kernel_start, protocol, relay

    kernel_start.preload()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[2])
    listener.listen(16)
    print("ready", flush=True)
    directory = tempfile.mkdtemp(prefix="kernel-")
    kernel, died_fd = 0, -1
    while True:
        conn, _ = listener.accept()
        try:
            request = protocol.recv_json(conn)
        except (EOFError, OSError, protocol.ProtocolError):
            conn.close()
            continue
        if request["op"] == "kernel_signal":
            if kernel:
                try:
                    os.kill(kernel, signal.Signals[request["signal"]])
                except ProcessLookupError:
                    pass
            try:
                protocol.send_json(conn, {"type": "ok"})
            except OSError:  # whoever asked is gone by now, on a busy machine
                pass
        elif request["op"] == "kernel":
            if kernel and request["fresh"]:
                try:
                    os.kill(kernel, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                kernel = 0
            if not kernel:
                kernel, died_fd = start(kernel_start, directory, listener)
            sockets = {name: f"{directory}/{name}" for name in relay.CHANNELS}
            if os.fork() == 0:
                listener.close()
                try:
                    relay.relay(conn, sockets, died_fd)
                finally:
                    os._exit(0)
        elif request["op"] == "stop":
            if kernel:
                try:
                    os.kill(kernel, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            shutil.rmtree(directory, ignore_errors=True)
            return
        conn.close()


def start(kernel_start, directory, listener):
    """A forked kernel: its pid, and a descriptor that tells its end."""
    read_fd, write_fd = os.pipe()
    warden = os.fork()
    if warden:
        os.close(write_fd)
        return int(os.read(read_fd, 16)), read_fd
    # The warden waits for the kernel and says how it ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    listener.close()
    os.close(read_fd)
    kernel = os.fork()
    if kernel == 0:
        os.close(write_fd)
        os.chdir(os.environ["HOME"])
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1):
            os.dup2(null, fd)
        try:
            kernel_start.run_kernel(directory)
        finally:
            os._exit(0)
    os.write(write_fd, str(kernel).ljust(16).encode())
    _, status = os.waitpid(kernel, 0)
    os.write(write_fd, json.dumps({"status": status}).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
