# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A bare OpenClaw home with a daemon that reads it: the smallest host on which the whole way can be walked."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any, Callable, Optional

from support.daemon import Daemon
from support.ingest import Ingest, canonical
from support.tree import dumps, numbered


def until(condition: Callable[[], Any], timeout_s: float = 20.0, what: str = "condition") -> Any:
    """Return the first true value of CONDITION(). Raises AssertionError after TIMEOUT_S."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError("no %s within %g s" % (what, timeout_s))
        time.sleep(0.05)


class PreparedDaemon(Daemon):
    """The daemon with code of a test run in its process before it starts: the engine itself has no test hooks."""

    prelude = ""

    def _argv(self, *arguments: str) -> list[str]:
        python, isolated, option, launcher, *rest = super()._argv(*arguments)
        return [python, isolated, option, launcher.replace("sys.exit(", self.prelude + "\nsys.exit("), *rest]


class Node:
    """A home under DIRECTORY with one agent; what is appended is remembered as what must arrive."""

    def __init__(self, directory: Path, ingest: Ingest, **config: Any) -> None:
        self.ingest = ingest
        self.home = directory / "home"
        self.sessions = self.home / ".openclaw/agents/main/sessions"
        self.sessions.mkdir(parents=True)
        self.expected: dict[str, list[str]] = {}
        self._numbers: dict[str, int] = {}
        settings = {"discover": ["openclaw"], "homes": [str(self.home)], "snapshot_interval": 3600, "ingest_url": ingest.url, **config}
        self.daemon = PreparedDaemon(directory / "node", **settings)

    def path(self, session: str) -> Path:
        return self.sessions / (session + ".jsonl")

    def write(self, session: str, data: bytes, *, mode: str = "ab") -> None:
        """Write bytes as they are, in one call; nothing is expected of them."""
        with open(self.path(session), mode, buffering=0) as stream:
            stream.write(data)

    def expect(self, session: str, *events: Any) -> None:
        self.expected.setdefault(session + ".jsonl", []).extend(canonical(event) for event in events)

    def lines(self, session: str, count: int, size_bytes: int = 0) -> list[bytes]:
        """Return COUNT new numbered lines of SESSION, expected from now on."""
        first = self._numbers.get(session, 0)
        self._numbers[session] = first + count
        events = [numbered(number, size_bytes) for number in range(first, first + count)]
        self.expect(session, *events)
        return [dumps(event) for event in events]

    def append(self, session: str, count: int, size_bytes: int = 0) -> None:
        self.write(session, b"".join(self.lines(session, count, size_bytes)))

    @property
    def expected_events(self) -> int:
        return sum(len(events) for events in self.expected.values())

    def received(self) -> dict[str, list[str]]:
        """Session file name → events in order of arrival, those of batches sent again left out."""
        found: dict[str, list[str]] = {}
        for (_source, name), events in list(self.ingest.events.items()):
            found.setdefault(name, []).extend(events)
        return found

    def arrived(self, timeout_s: float = 30.0) -> None:
        """Wait for all that is expected; it must be all there is, in order, each event once."""
        self.ingest.wait_events(self.expected_events, timeout_s)
        self.exact()

    def exact(self) -> None:
        self.ingest.check()
        received = self.received()
        for name in sorted(set(received) | set(self.expected)):
            got, wanted = received.get(name, []), self.expected.get(name, [])
            if got != wanted:
                raise AssertionError(
                    "%s: %d of %d events, missing %s, unexpected %s, in order: %s"
                    % (
                        name,
                        len(got),
                        len(wanted),
                        [event[:90] for event in wanted if event not in set(got)][:5],
                        [event[:90] for event in got if event not in set(wanted)][:5],
                        [event for event in wanted if event in set(got)] == got,
                    )
                )

    def no_more(self, seconds: float = 1.5) -> None:
        """Nothing arrives a second time, or that should not, for a while."""
        time.sleep(seconds)
        self.exact()
        if self.ingest.duplicate_events:
            raise AssertionError(self.ingest.summary())


class Writer:
    """Appends numbered lines to several sessions at a rate, cut at random places, until stopped."""

    def __init__(self, node: Node, sessions: list[str], per_second: float = 500.0, seed: int = 1) -> None:
        self._node, self._sessions, self._per_second, self._chance = node, sessions, per_second, random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.error: Optional[BaseException] = None
        self.count = 0

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        began, waiting = time.monotonic(), dict.fromkeys(self._sessions, b"")
        while not self._stop.is_set():
            due = int((time.monotonic() - began) * self._per_second) - self.count
            for _line in range(due):
                session = self._chance.choice(self._sessions)
                waiting[session] += b"".join(self._node.lines(session, 1, self._chance.randrange(400)))
                self.count += 1
            for session, data in waiting.items():
                cut = self._chance.randrange(len(data) + 1)
                if cut:
                    self._node.write(session, data[:cut])
                    waiting[session] = data[cut:]
            self._stop.wait(0.01)
        for session, data in waiting.items():
            if data:
                self._node.write(session, data)
