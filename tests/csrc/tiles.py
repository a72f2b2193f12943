"""Linux's permission for this process to use AMX's tiles. Nothing is imported that would ask for it."""

from __future__ import annotations

import ctypes

_ARCH_PRCTL, _ARCH_GET_XCOMP_PERM, _XTILEDATA = 158, 0x1022, 18
_SMALL = 8000  # bytes of a signal stack, which must hold a tile's 8192 where tiles are permitted


class _Stack(ctypes.Structure):
    _fields_ = [("memory", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


def may_use_tiles() -> bool:
    permitted = ctypes.c_uint64()
    failed = ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ARCH_GET_XCOMP_PERM, ctypes.byref(permitted))
    return not failed and bool(permitted.value >> _XTILEDATA & 1)


def make_linux_refuse() -> None:
    """Give this thread a signal stack that is too small for tiles; it must not have the permission yet."""
    memory = ctypes.create_string_buffer(_SMALL)
    stack = _Stack(ctypes.cast(memory, ctypes.c_void_p), 0, _SMALL)
    assert ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None) == 0
    _kept.append(memory)


_kept: list[object] = []
