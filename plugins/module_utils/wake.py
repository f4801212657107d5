# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""What the loop sleeps on: a time, a word from another thread or a signal handler, or the end of a process.

A container's first process is watched through a pidfd, so that its files are read once more before
the engine, a moment later, takes them away.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from typing import Sequence


class Wake:
    """set() from anywhere, wait() in one thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._out, self._in = os.pipe()
        for fd in (self._out, self._in):
            os.set_blocking(fd, False)

    def set(self) -> None:
        # A full pipe wakes as well as a fuller one. A signal handler may come in the middle: hence the RLock.
        with self._lock, contextlib.suppress(BlockingIOError):
            if self._in >= 0:
                os.write(self._in, b"!")

    def wait(self, timeout_s: float, watched: Sequence[int] = ()) -> list[int]:
        """Sleep at most TIMEOUT_S seconds; return those of the WATCHED descriptors that have become readable."""
        poll = select.poll()
        for fd in (self._out, *watched):
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _events in poll.poll(int(timeout_s * 1000) + 1)]
        if self._out in ready:
            ready.remove(self._out)
            with contextlib.suppress(BlockingIOError):
                os.read(self._out, 65536)
        return ready

    def close(self) -> None:
        with self._lock:
            os.close(self._out)
            os.close(self._in)
            self._out = self._in = -1
