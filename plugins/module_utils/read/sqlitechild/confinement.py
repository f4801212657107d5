# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Into the sandbox's root, to the owner of the file, without any privilege: all that comes before the file is touched."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from typing import Optional

from .frames import Refusal

MEMORY_BYTES = 160 << 20  # address space; an event of 8 MiB takes about 75
CPU_S = 3

_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_SECUREBITS, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 4, 24, 28, 38, 47
# Capabilities outlive a change of user, and count in access(2), which SQLite asks for files that are not ours.
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522


def confine(root: Optional[int], directory: int, uid: int, gid: int, keep: int) -> None:
    """Move into ROOT (None: stay), stand in DIRECTORY, become UID, drop every capability not in the set KEEP, limit ourselves.

    Raises OSError, Refusal.
    """
    # When memory runs out in the service's group, it is this process that has to go.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write("1000")
    if root is not None:
        os.fchdir(root)
        os.chroot(".")
        os.close(root)
    os.fchdir(directory)
    os.close(directory)
    if not os.getcwd().startswith("/"):
        raise Refusal("its directory is not below the sandbox's root")
    libc = ctypes.CDLL(None, use_errno=True)
    if root is not None:
        if keep:
            libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
        for number in range(64):
            libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # needs CAP_SETPCAP; without it no_new_privs has to do
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    head = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    kept = (ctypes.c_uint32 * 6)(keep, keep)  # effective, permitted, inheritable; then the same of numbers from 32
    if libc.capset(head, kept) != 0 or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise Refusal("privileges could not be dropped")
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    for what, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid):
        raise Refusal("privileges could not be dropped")
    # Nothing of the sandbox is ever loaded: from here on there is no way to import.
    sys.path[:] = []
    sys.meta_path[:] = []
    sys.path_hooks[:] = []
