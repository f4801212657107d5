# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Calls that Python has no wrapper for: openat2(2), fstatfs(2) and mallopt(3), by ctypes.

Nothing but the calls: kernel names, declared types, errno raised as OSError.
Sources: openat2(2), statfs(2), linux/magic.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys

# The number is the same on every architecture that has the unified table (linux/unistd.h).
SYS_openat2 = 437
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

# O_PATH is missing from os on platforms without it; discovery must still import there.
O_PATH = getattr(os, "O_PATH", 0)

PROC_SUPER_MAGIC = 0x9FA0
SYSFS_MAGIC = 0x62656572
DEBUGFS_MAGIC = 0x64626720
TRACEFS_MAGIC = 0x74726163
SECURITYFS_MAGIC = 0x73636673
CGROUP_SUPER_MAGIC = 0x27E0EB
CGROUP2_SUPER_MAGIC = 0x63677270
BPF_FS_MAGIC = 0xCAFE4A11
DEVPTS_SUPER_MAGIC = 0x1CD1
FUSE_SUPER_MAGIC = 0x65735546

PSEUDO_FILESYSTEMS = frozenset(
    (
        PROC_SUPER_MAGIC,
        SYSFS_MAGIC,
        DEBUGFS_MAGIC,
        TRACEFS_MAGIC,
        SECURITYFS_MAGIC,
        CGROUP_SUPER_MAGIC,
        CGROUP2_SUPER_MAGIC,
        BPF_FS_MAGIC,
        DEVPTS_SUPER_MAGIC,
    )
)


class OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


_LIBC = _libc() if sys.platform.startswith("linux") else None


def openat2(dir_fd: int, path: bytes, flags: int, resolve: int) -> int:
    """Open PATH below DIR_FD under RESOLVE_* restrictions and return the descriptor.

    Raises OSError; ENOSYS where the kernel (before 5.6) or a seccomp filter has no openat2.
    """
    if _LIBC is None or platform.machine() == "alpha":
        raise OSError(errno.ENOSYS, "openat2 is not available here")
    how = OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    fd = _LIBC.syscall(
        ctypes.c_long(SYS_openat2),
        ctypes.c_int(dir_fd),
        ctypes.c_char_p(path),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(fd)


def give_memory_back(threshold: int = 256 << 10) -> None:
    """Let glibc map blocks of THRESHOLD bytes and more one by one, and unmap them at once when they are freed.

    Its own threshold grows with the first large block freed; from then on a few records of megabytes leave the
    heap full of holes. Nothing happens where there is no mallopt(3).
    """
    mallopt = getattr(_LIBC, "mallopt", None)
    if mallopt is not None:
        for parameter in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
            mallopt(ctypes.c_int(parameter), ctypes.c_int(threshold))


def filesystem_type(fd: int) -> int:
    """Return statfs.f_type of FD's filesystem (a magic number of linux/magic.h), 0 off Linux."""
    if _LIBC is None:
        return 0
    # struct statfs begins with f_type, a long; 256 bytes hold it on every architecture.
    buffer = ctypes.create_string_buffer(256)
    if _LIBC.fstatfs(ctypes.c_int(fd), buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF
