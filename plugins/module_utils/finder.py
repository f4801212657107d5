# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Keeps discovery apart from reading: a thread that looks every few seconds and hands over held sandboxes.

The engine may hang, restart or be gone; what is already held goes on being read meanwhile. A held
sandbox is handed over exactly once and from then on belongs to the reader, who closes it.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Callable, Optional

from . import discover, holding
from .config import Settings
from .errors import Unreadable, shown
from .log import Log
from .model import Discovery, Sandbox
from .read.routes import HeldSandbox

DISCOVERY_INTERVAL_S = 5.0
# Between two tries of a gateway that did not let us in: each is a command in somebody's name.
CLI_RETRY_S = 60.0
# About what one look has open at a time.
SPARE_DESCRIPTORS = 16


def _has_descriptors() -> None:
    """Raise Unreadable when there are none to spare: to whoever cannot open a thing it looks absent, and its owner nameless."""
    spare: list[int] = []
    try:
        while len(spare) < SPARE_DESCRIPTORS:
            spare.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as exc:
        raise Unreadable(
            "no file descriptors left to look around with", cause=os.strerror(exc.errno or 0), next_step="raise LimitNOFILE of the service"
        ) from exc
    finally:
        for fd in spare:
            os.close(fd)


class Finder:
    """One look at a time; ``look()`` from a thread of its own or, for one-shot commands, directly."""

    def __init__(self, settings: Settings, log: Log) -> None:
        self.settings = settings
        self.discovery = Discovery()
        self.unreadable: dict[str, str] = {}
        self.looks = 0
        self.nudge = threading.Event()  # look now, or notice that it is time to stop
        self._log = log
        self._discoverer = discover.Discoverer(
            **settings.discovery,
            quick_start=True,
        )
        self._held: dict[str, HeldSandbox] = {}
        self._refused: dict[str, tuple[float, str]] = {}  # by uid: when OpenShell's own exec failed, and why
        self._lock = threading.Lock()
        self._ready: list[HeldSandbox] = []
        self._dropped: list[HeldSandbox] = []

    def look(self) -> Discovery:
        """Discover once; hold what is new or has been restarted; note what is gone. Raises Unreadable, and then nothing changes."""
        _has_descriptors()
        found = self._discoverer.discover()
        _has_descriptors()
        unreadable: dict[str, str] = {}
        wanted = {sandbox.uid: sandbox for sandbox in found.sandboxes if self._leads_in(sandbox)}
        for uid, held in list(self._held.items()):
            # What is read through its first process is gone when that is; anything else, when nothing lists it any more.
            unlisted = uid not in wanted and held.route != "proc"
            if not held.alive() or unlisted or self._moved(held, wanted.get(uid)):
                del self._held[uid]
                with self._lock:
                    self._dropped.append(held)
        for uid, sandbox in wanted.items():
            if uid in self._held:
                self._held[uid].sandbox = sandbox  # its name or status may be another by now
                self._look_into(self._held[uid], unreadable)
                continue
            held_now = self._hold(sandbox, unreadable)
            if held_now is not None:
                self._held[uid] = held_now
                with self._lock:
                    self._ready.append(held_now)
        self._refused = {uid: refused for uid, refused in self._refused.items() if uid in wanted}
        self.discovery, self.unreadable = found, unreadable
        self.looks += 1
        for uid, reason in unreadable.items():
            self._log.state("sandbox " + uid, reason)
        return found

    def _leads_in(self, sandbox: Sandbox) -> bool:
        by_cli = sandbox.cli is not None and "exec" in self.settings.routes
        return by_cli or sandbox.container is not None or sandbox.home is not None

    @staticmethod
    def _look_into(held: HeldSandbox, unreadable: dict[str, str]) -> None:
        try:
            held.look()
        except Unreadable as exc:
            unreadable[held.sandbox.uid] = str(exc)

    @staticmethod
    def _moved(held: HeldSandbox, now: Optional[Sandbox]) -> bool:
        """Has what we read without its first process been started, stopped or given another way in since? A better one may be open."""
        was = held.opened_as
        if now is not None and was is None and now.container is None and held.route == "exec":
            return now.cli != held.opened_by  # another program or version
        if now is None or now.container is None or was is None or held.route == "proc":
            return False
        return (now.container.running, now.container.started_at) != (was.running, was.started_at)

    def _hold(self, sandbox: Sandbox, unreadable: dict[str, str]) -> Optional[HeldSandbox]:
        by_cli = sandbox.container is None and sandbox.home is None
        since, why = self._refused.get(sandbox.uid, (-1e9, ""))
        if by_cli and time.monotonic() - since < CLI_RETRY_S:
            unreadable[sandbox.uid] = why
            return None
        try:
            held = holding.hold(sandbox, self.settings)
        except Unreadable as exc:
            if sandbox.confirmed:
                unreadable[sandbox.uid] = str(exc)
            if by_cli:
                self._refused[sandbox.uid] = (time.monotonic(), str(exc))
            return None
        self._refused.pop(sandbox.uid, None)
        if not sandbox.confirmed and not held.states:
            held.close()  # a candidate by name only, and nothing of OpenClaw in it: not a sandbox
            return None
        return held

    def handed_over(self) -> tuple[list[HeldSandbox], list[HeldSandbox]]:
        """Return (newly held, no longer current) since the last call; the caller owns all of them now."""
        with self._lock:
            ready, dropped = self._ready, self._dropped
            self._ready, self._dropped = [], []
        return ready, dropped

    def run(self, stop: threading.Event, wake: Callable[[], None]) -> None:
        """Look again and again until STOP; a nudge cuts the waiting short."""
        while not stop.is_set():
            if self.nudge.wait(DISCOVERY_INTERVAL_S):
                self.nudge.clear()
            if stop.is_set():
                return
            if self.try_to_look():
                wake()

    def try_to_look(self) -> bool:
        """As look(), for who must outlive whatever one look met. True when it succeeded."""
        try:
            self.look()
        except Exception as exc:
            self._log.state("discovery", "%s: %s" % (type(exc).__name__, shown(str(exc))))
            return False
        self._log.state("discovery", None)
        return True
