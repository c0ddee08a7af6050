"""sys.stdout and sys.stderr of a kernel, and what is written to descriptors 1 and 2 beside them.

Imported in the kernel zygote alone (it needs the image's ipykernel).
"""

from __future__ import annotations

import codecs
import fcntl
import os
import select
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ipykernel.iostream import OutStream

STREAM_CHUNK = 1024 * 1024  # characters of one stream message; larger ones could not be relayed
FLUSH_INTERVAL = 0.05  # seconds that printed text may wait
PROMPT_LINES = 8  # lines after a silence that are sent at once
WRITE_TIME = 0.0002  # seconds in which libzmq's own thread usually writes a line to its socket


class Stream(OutStream):  # type: ignore[misc]
    """sys.stdout or sys.stderr: sends in the writing order from whichever thread flushes.

    ipykernel hands every flush to its I/O thread and waits; four of them, mostly of nothing, are
    a third of the time of a short cell. Here a flush with nothing to send costs nothing. The first
    lines after a silence are sent at once, so that they are seen if the process is then killed or
    C code holds the interpreter; after that, text waits `FLUSH_INTERVAL`.
    """

    flush_interval = FLUSH_INTERVAL

    def __init__(self, session: Any, pub_thread: Any, name: str, **_: Any) -> None:
        super().__init__(session, pub_thread, name, watchfd=False)
        self._number = 1 if name == "stdout" else 2
        self._flush_lock = threading.RLock()
        self._child_text = ""
        self._credit, self._credit_at = float(PROMPT_LINES), time.monotonic()
        os.register_at_fork(after_in_child=self._forget)
        self.capture = FdCapture(self._number, super().write)

    def _forget(self) -> None:
        """In a forked child: nobody holds the locks, and the text is the parent's to send."""
        self._flush_lock, self._buffer_lock = threading.RLock(), threading.RLock()
        self._rotate_buffers()

    def fileno(self) -> int:
        """The real descriptor, which `capture` reads, so that subprocesses can be given it."""
        return self._number

    def write(self, string: str) -> int | None:
        """Add text, after what was written to the descriptor before.

        In a forked child it goes to the descriptor: ipykernel's own way is slow there, and comes
        too late for the end of the cell.
        """
        if not self._is_master_process():
            return self._write_in_child(string)
        self.capture.drain()
        written: int | None = super().write(string)
        if string.endswith("\n") and self._may_send_now():
            self.flush()
            time.sleep(WRITE_TIME)
        return written

    def _write_in_child(self, string: str) -> int:
        self._child_text += string
        if string.endswith("\n") or len(self._child_text) > STREAM_CHUNK:
            self._flush_in_child()
        return len(string)

    def _flush_in_child(self) -> None:
        data, self._child_text = self._child_text.encode(errors="replace"), ""
        while data:
            data = data[os.write(self._number, data) :]

    def _may_send_now(self) -> bool:
        now = time.monotonic()
        self._credit = min(PROMPT_LINES, self._credit + (now - self._credit_at) / FLUSH_INTERVAL)
        self._credit_at = now
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    def _flush(self) -> None:
        with self._flush_lock:  # between taking the text and queueing it nobody may go ahead
            super()._flush()

    def flush(self) -> None:
        """Send what was written; returns once it is with libzmq, so that a crash loses little."""
        if not self._is_master_process():
            self._flush_in_child()
            return
        with self._flush_lock:
            if not self._buffers:
                return
            super()._flush()
        thread = self.pub_thread
        if (
            thread is not None
            and thread.thread.is_alive()
            and threading.current_thread() is not thread.thread
        ):
            sent = threading.Event()
            thread.schedule(sent.set)
            sent.wait(self.flush_timeout)

    def _flush_buffers(self) -> Iterator[tuple[dict[str, Any], str]]:
        for parent, text in super()._flush_buffers():
            for at in range(0, len(text), STREAM_CHUNK):
                yield parent, text[at : at + STREAM_CHUNK]


class FdCapture:
    """Turns what is written to a descriptor (by C code, by subprocesses) into stream output."""

    def __init__(self, fd: int, write: Callable[[str], object]) -> None:
        self._write = write
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._lock = threading.RLock()  # held from reading to writing, so that drain() waits for it
        self._read_fd, write_fd = os.pipe()
        os.dup2(write_fd, fd)
        os.close(write_fd)
        threading.Thread(target=self._watch, name=f"fd {fd}", daemon=True).start()

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._read_fd, select.POLLIN)
        while poll.poll()[0][1] & select.POLLIN:
            self.drain()

    def drain(self) -> None:
        """Pass on what is in the pipe now. Safe from any thread."""
        with self._lock:
            pending = _pending(self._read_fd)
            if pending:
                self._write(self._decoder.decode(os.read(self._read_fd, pending)))


def _pending(fd: int) -> int:
    """How many bytes can be read from a pipe now."""
    count: int = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]
    return count
