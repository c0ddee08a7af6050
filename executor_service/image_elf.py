"""Where an ELF program looks for its libraries: reading and replacing its run path.

An interpreter that was built with a shared libpython finds it by an absolute path of the host, which a
sandbox does not see. Its copy in an image looks beside itself instead. Layout after the System V ABI,
"Object Files" and "Dynamic Linking"; 64-bit little-endian files only.
"""

from __future__ import annotations

import struct

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 5, 15, 29


def run_path(program: bytes) -> str | None:
    """The run path of an ELF file's contents; None if there is none."""
    place = _place(program)
    return None if place is None else program[place : program.index(b"\0", place)].decode()


def with_run_path(program: bytes, path: str) -> bytes:
    """The same program with another run path, which may not be longer than the present one.

    Raises:
        ValueError: it has no run path, or a shorter one.
    """
    place = _place(program)
    if place is None:
        raise ValueError("the program has no run path")
    room = program.index(b"\0", place) - place
    new = path.encode()
    if len(new) > room:
        raise ValueError(f"the run path {path!r} is longer than the {room} bytes there are")
    return program[:place] + new.ljust(room, b"\0") + program[place + room :]


def _place(program: bytes) -> int | None:
    """The offset of the run path's text."""
    if program[:6] != b"\x7fELF\x02\x01":
        return None
    (table,) = struct.unpack_from("<Q", program, 32)
    size, count = struct.unpack_from("<HH", program, 54)
    segments = [struct.unpack_from("<IIQQQQ", program, table + i * size) for i in range(count)]
    loads = [
        (address, offset, length) for kind, _, offset, address, _, length in segments if kind == _PT_LOAD
    ]
    entries: dict[int, int] = {}
    for kind, _, offset, _, _, length in segments:
        if kind == _PT_DYNAMIC:
            entries |= dict(struct.iter_unpack("<QQ", program[offset : offset + length]))
    text = entries.get(_DT_RUNPATH, entries.get(_DT_RPATH))
    if text is None or _DT_STRTAB not in entries:
        return None
    strings = entries[_DT_STRTAB]
    for address, offset, length in loads:
        if address <= strings < address + length:
            return int(offset + strings - address + text)
    return None
