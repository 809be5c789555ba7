"""An empty shared library under another's missing name.

TensorRT-RTX's parser opens `libtensorrt_rtx.so`, and aborts the process where there is none; its wheel brings only
`libtensorrt_rtx.so.1`. A library in memory that has the missing name and depends on the present one answers for it:
the loader knows libraries by the name they hold, and looks symbols up in what they depend on.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from functools import cache

from alexnet_deploy.errors import EngineError

# ELF's numbers (System V ABI, gABI 4.1, chapters 4 and 5).
_MACHINES = {"x86_64": 62, "aarch64": 183}
_ET_DYN, _PT_LOAD, _PT_DYNAMIC, _PT_GNU_STACK = 3, 1, 2, 0x6474E551
_DT_NEEDED, _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SYMENT, _DT_SONAME = 1, 4, 5, 6, 10, 11, 14
_HEADER_BYTES, _PROGRAM_HEADER_BYTES, _SYMBOL_BYTES, _DYNAMIC_BYTES = 64, 56, 24, 16
_READ_WRITE = 6
_PAGE = 0x10000


@cache
def preload_alias(name: str, library: str) -> None:
    """Makes `name` stand for `library` in this process; nothing where `name` can be opened already.

    Args:
        name: What somebody will open, without a path.
        library: A library that is loaded, or that the loader finds.

    Raises:
        EngineError: This system has no such loader, or `library` is not there.
    """
    try:
        ctypes.CDLL(name)
        return
    except OSError:
        pass
    try:
        file = os.memfd_create(name)
    except (AttributeError, OSError) as exc:
        raise EngineError(f"{name} is missing, and this system cannot hold a stand-in for it", got=exc) from exc
    try:
        os.write(file, alias_library(name, library))
        ctypes.CDLL(f"/proc/self/fd/{file}", mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(name)
    except (OSError, EngineError) as exc:
        os.close(file)
        if isinstance(exc, EngineError):
            raise
        raise EngineError(f"{name} is missing, and {library} cannot stand for it", got=exc) from exc
    # The file stays open: the loader remembers its path, and would take the next file of that number for this one.


def alias_library(name: str, library: str) -> bytes:
    """An ELF shared library without code: its own name, and what it depends on.

    Raises:
        EngineError: The processor is of another kind.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise EngineError("no stand-in library for this processor", got=platform.machine(), expected=list(_MACHINES))
    strings = b"\0" + name.encode() + b"\0" + library.encode() + b"\0"
    symbols = _HEADER_BYTES + 3 * _PROGRAM_HEADER_BYTES
    buckets = symbols + _SYMBOL_BYTES
    texts = buckets + 16
    dynamic = -(-(texts + len(strings)) // 8) * 8
    entries = [
        (_DT_NEEDED, 2 + len(name)),
        (_DT_SONAME, 1),
        (_DT_STRTAB, texts),
        (_DT_STRSZ, len(strings)),
        (_DT_SYMTAB, symbols),
        (_DT_SYMENT, _SYMBOL_BYTES),
        (_DT_HASH, buckets),
        (0, 0),
    ]
    size = dynamic + _DYNAMIC_BYTES * len(entries)
    header = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header += struct.pack(
        "<HHIQQQIHHHHHH",
        *(_ET_DYN, machine, 1, 0, _HEADER_BYTES, 0, 0, _HEADER_BYTES, _PROGRAM_HEADER_BYTES, 3, 64, 0, 0),
    )
    header += _program_header(_PT_LOAD, 0, size, _PAGE)
    header += _program_header(_PT_DYNAMIC, dynamic, _DYNAMIC_BYTES * len(entries), 8)
    # Without it the loader asks for an executable stack.
    header += _program_header(_PT_GNU_STACK, 0, 0, 16)
    no_symbols = bytes(_SYMBOL_BYTES) + struct.pack("<IIII", 1, 1, 0, 0)
    body = (header + no_symbols + strings).ljust(dynamic, b"\0")
    return body + b"".join(struct.pack("<QQ", *entry) for entry in entries)


def _program_header(kind: int, offset: int, size: int, alignment: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, _READ_WRITE, offset, offset, offset, size, size, alignment)
