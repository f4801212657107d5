# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Route ``proc``: hold the root directory of a container's first process.

Needs to be root, or CAP_SYS_PTRACE with CAP_DAC_READ_SEARCH, in the engine's pid namespace.
The process is pinned by a descriptor of /proc/<pid> before its root is opened: that descriptor
answers ESRCH once the process is gone, even if the number has been given to another one.
"""

from __future__ import annotations

import errno
import os
from typing import Callable, Optional

from .. import kernel
from ..errors import Unreadable
from .opener import HeldDir


class PinnedRoot:
    """A container's root and the process it was taken from."""

    def __init__(self, root: HeldDir, proc_fd: int, pid: int) -> None:
        self.root = root
        self.pid = pid
        self._proc_fd = proc_fd
        self.pidfd = _pidfd(pid)  # becomes readable when the process ends; -1 where the kernel has none (before 5.3)

    def alive(self) -> bool:
        """Is the process the root was taken from still there? (Never true for a reused pid.)"""
        try:
            os.close(os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc_fd))
            return True
        except OSError as exc:
            # That we have no descriptor left just now says nothing of the process.
            return exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

    def own_ids(self) -> tuple[range, ...]:
        """Return the ids of ours that the process's user namespace maps, () when it cannot be told.

        The kernel lets a user map no id but its own and those /etc/subuid grants it.
        """
        try:
            fd = os.open("uid_map", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc_fd)
            with open(fd, "rb") as stream:
                rows = [list(map(int, line.split())) for line in stream.read(65536).splitlines()]
            return tuple(range(outside, outside + count) for _inside, outside, count in rows)
        except (OSError, ValueError):
            return ()

    def close(self) -> None:
        self.root.close()
        if self._proc_fd >= 0:
            os.close(self._proc_fd)
            self._proc_fd = -1
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def _pidfd(pid: int) -> int:
    opener: Optional[Callable[[int], int]] = getattr(os, "pidfd_open", None)
    try:
        return -1 if opener is None else opener(pid)
    except OSError:
        return -1


def pin(pid: int, label: str, proc: str = "/proc") -> PinnedRoot:
    """Hold the root of process PID. Raises Unreadable with what to do about it.

    The caller must ask the engine again afterwards whether PID still is that container's.
    """
    if pid <= 0:
        raise Unreadable("no process to read through", where=label, cause="the container is not running")
    try:
        proc_fd = os.open("%s/%d" % (proc, pid), kernel.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise Unreadable("process %d is gone" % pid, where=label, cause=os.strerror(exc.errno or 0)) from exc
    try:
        root_fd = os.open("root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc_fd)
    except OSError as exc:
        os.close(proc_fd)
        step = "run as root, or grant CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH (the daemon role does)"
        raise Unreadable(
            "cannot hold /proc/%d/root" % pid,
            where=label,
            cause=os.strerror(exc.errno or 0),
            next_step=step if exc.errno in (errno.EACCES, errno.EPERM) else "",
        ) from exc
    return PinnedRoot(HeldDir(root_fd, label), proc_fd, pid)


def cgroup_paths(pid: int, proc: str = "/proc") -> tuple[str, ...]:
    """Return the cgroups of process PID, as ``/docker/3f2a…`` (v1: one for each controller); () when it is gone."""
    try:
        with open("%s/%d/cgroup" % (proc, pid), "rb") as stream:
            lines = stream.read(65536).decode("utf-8", "backslashreplace").splitlines()
    except OSError:
        return ()
    return tuple(dict.fromkeys(line.split(":", 2)[2] for line in lines if line.count(":") >= 2))


def is_of_container(pid: int, container_id: str, proc: str = "/proc") -> bool:
    """Does PID run in the cgroup of that container? Its id is in the path with every engine and cgroup driver.

    Samples: ``/docker/<id>``, ``/system.slice/docker-<id>.scope``, ``…/libpod-<id>.scope/container``.
    """
    return any(container_id in path for path in cgroup_paths(pid, proc))
