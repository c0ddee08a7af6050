"""What /proc says of a process that became another program without exec: its command line and environment.

The kernel lets a process move the borders of these two texts (prctl(2), PR_SET_MM_MAP: no privilege needed,
CONFIG_CHECKPOINT_RESTORE is). Where it refuses, they stay the zygote's.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Mapping, Sequence

_PR_SET_NAME, _PR_SET_MM, _PR_SET_MM_MAP = 15, 35, 14

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sbrk.restype = ctypes.c_void_p
_libc.prctl.argtypes = (ctypes.c_int,) + (ctypes.c_ulong,) * 4
_kept: list[object] = []  # the texts must live as long as the process


class Title:
    """Reads the process's layout once, in the zygote; `show` in a fork is then a single call."""

    def __init__(self) -> None:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        number = [int(word) if word.lstrip(b"-").isdigit() else 0 for word in fields]
        # proc(5) counts from 1, and two fields came before the bracket.
        self._code, self._stack = number[26 - 3 : 28 - 3], number[28 - 3]
        self._data, self._brk = number[45 - 3 : 47 - 3], number[47 - 3]

    def show(self, argv: Sequence[str], environment: Mapping[str, str], name: str) -> bool:
        """Whether the kernel took it. `name` is what ps calls the process."""
        short = ctypes.create_string_buffer(os.fsencode(name))
        _libc.prctl(_PR_SET_NAME, ctypes.addressof(short), 0, 0, 0)
        words = b"".join(os.fsencode(word) + b"\0" for word in argv)
        pairs = b"".join(os.fsencode(f"{key}={value}") + b"\0" for key, value in environment.items())
        text = ctypes.create_string_buffer(words + pairs + b"\0")
        start = ctypes.addressof(text)
        middle, end = start + len(words), start + len(words) + len(pairs)
        borders = (
            *self._code,
            *self._data,
            self._brk,
            _libc.sbrk(0),
            self._stack,
            start,
            middle,
            middle,
            end,
        )
        layout = ctypes.create_string_buffer(struct.pack("=11QQIi", *borders, 0, 0, -1))
        done = bool(
            _libc.prctl(_PR_SET_MM, _PR_SET_MM_MAP, ctypes.addressof(layout), len(layout) - 1, 0) == 0
        )
        if done:
            _kept.append(text)
        return done
