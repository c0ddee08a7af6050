"""A guest without walls that serves only files: `python file_guest.py REPO SOCKET ROOT`.

Each connection is served in a fork, as the real guest does; as root, under another uid.
"""

import os
import signal
import socket
import sys


def main() -> None:
    """Serve until killed."""
    sys.path.insert(0, sys.argv[1])
    import tarfile  # noqa: F401  (loaded before the uid changes)

    from executor_service.guest import archive, files, protocol  # noqa: F401

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[2])
    listener.listen(64)
    os.umask(0o022)
    if os.geteuid() == 0 and len(sys.argv) == 4:
        os.chown(sys.argv[3], 1000, 1000)
        os.setgroups([])
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    while True:
        conn, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            try:
                files.serve(conn, protocol.recv_json(conn), sys.argv[3])
            finally:
                os._exit(0)
        conn.close()


main()
