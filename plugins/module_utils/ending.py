# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""``clawmetry stop``: end the daemon that works on a state directory, and one that is about to.

Whoever works on it holds its lock, so a stale number names nobody. Whoever is only starting has no lock yet and is known
by a command line that is ours, word for word, but for the verb.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from typing import Callable, Optional, Sequence

from .errors import StateError

GRACE_S = 5.0


def command_line(verb: bytes, other: bytes, proc: str = "/proc") -> tuple[bytes, ...]:
    """Return our own command line up to VERB, with OTHER in its place; () where /proc does not tell."""
    own = _command_of("self", proc)
    if verb not in own:
        return ()
    last = len(own) - 1 - own[::-1].index(verb)
    return (*own[:last], other)


def _command_of(process: str, proc: str) -> tuple[bytes, ...]:
    try:
        with open("%s/%s/cmdline" % (proc, process), "rb") as stream:
            return tuple(stream.read(1 << 17).split(b"\0")[:-1])
    except OSError:
        return ()


def _running(command: Sequence[bytes], proc: str) -> list[int]:
    """Return the processes of our own user with exactly this command line."""
    found = []
    for name in os.listdir(proc) if command else ():
        with contextlib.suppress(OSError):
            if name.isdigit() and _command_of(name, proc) == tuple(command) and os.stat("%s/%s" % (proc, name)).st_uid == os.geteuid():
                found.append(int(name))
    return found


def _holder(state_dir: str) -> Optional[int]:
    """Return who holds the lock: 0 when nobody does, None when that cannot be told. Raises StateError."""
    try:
        fd = os.open(os.path.join(state_dir, "lock"), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return 0
    except OSError as exc:
        step = "run this as root or as the service's user"
        raise StateError("cannot open the lock", where=state_dir, cause=os.strerror(exc.errno or 0), next_step=step) from exc
    with open(fd, "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return 0
        except OSError:
            number = os.pread(fd, 32, 0).strip()
            return int(number) if number.isdigit() and int(number) > 1 else None


def end(
    state_dir: str,
    timeout_s: float,
    *,
    starting: Sequence[bytes] = (),
    proc: str = "/proc",
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """End who works on STATE_DIR, or starts to with the command line STARTING: SIGTERM, after TIMEOUT_S SIGKILL. True when none is left."""
    began = clock()
    asked: set[tuple[int, int]] = set()
    while True:
        holder = _holder(state_dir)
        there = set(_running(starting, proc)) | ({holder} if holder else set())
        if holder == 0 and not there:
            return True
        waited = clock() - began
        if waited > timeout_s + GRACE_S:
            return False
        wanted = signal.SIGTERM if waited < timeout_s else signal.SIGKILL
        for pid in there:
            if (pid, wanted) not in asked:
                asked.add((pid, wanted))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, wanted)
        time.sleep(0.05)
