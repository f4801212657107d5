# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The state directory: ours alone, and one process in it at a time."""

from __future__ import annotations

import fcntl
import os
import stat

from ..errors import ConfigError, StateError, shown


class InstanceLock:
    """One process per state directory, by flock; released by the kernel whatever happens to us."""

    def __init__(self, state_dir: str) -> None:
        path = os.path.join(state_dir, "lock")
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise StateError(
                "another clawmetry works on this state directory",
                where=state_dir,
                cause="process %s holds its lock" % (shown(holder) or "unknown"),
                next_step="clawmetry status, or stop that one first",
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


# By these a state directory is known again.
OURS = frozenset(("queue.db", "lock", "archive"))


def prepare_state_dir(path: str) -> None:
    """Create the state directory (0700) or check the one that is there. Raises ConfigError."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        seen = os.lstat(path)
    except OSError as exc:
        raise ConfigError("cannot make the state directory", where=path, cause=os.strerror(exc.errno or 0)) from exc
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid():
        raise ConfigError(
            "the state directory must be a directory of uid %d" % os.geteuid(), where=path, cause="it belongs to uid %d" % seen.st_uid
        )
    if seen.st_mode & 0o077:
        check_own(path)
        os.chmod(path, 0o700)


def check_own(path: str) -> None:
    """Raise ConfigError when the directory at PATH is in use for something else: /tmp or /srv must not be closed to everybody."""
    try:
        mode, names = stat.S_IMODE(os.lstat(path).st_mode), os.listdir(path)
    except OSError:
        return  # not there, or not ours: told elsewhere
    # A file system of its own has lost+found.
    if mode & 0o077 and set(names) - {"lost+found"} and not OURS.intersection(names):
        cause = "it holds other things and is open to others (mode %04o)" % mode
        step = "name one in state_dir that is empty, or not there"
        raise ConfigError("not a directory of our own", where=path, cause=cause, next_step=step)
