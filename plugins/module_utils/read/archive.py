# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Route ``archive``: a container's files through its engine, running or stopped, here or elsewhere.

HEAD of /containers/{id}/archive says what one path is; GET streams it as tar. There is no call that
lists a directory, so only places of OpenClaw's layout are asked for by name, and the agents, their
transcripts and the daily notes are listed by streaming their directory, once each time it changes.
Nothing is ever PUT. A path is asked for only when each directory on its way was seen to be one, no
link; an engine resolves links inside the container anyway, never on the host.
Cost: about 1.5 ms for each HEAD; 60-230 ms and its bytes for each GET.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Callable, Mapping, Optional

from ..dockerapi import Engine, EngineError
from ..errors import Refused, Unreadable, shown
from . import layout
from .spool import Due, Seen, SpooledRoot, Tree
from .tar import TarReader

INTERVAL_S = 10.0
# What has stopped can change only by the hand of its operator.
STOPPED_INTERVAL_S = 60.0
LOOK_S = 30.0
LISTING_S = 20.0
MAX_STATS = 2000
MAX_LISTING_BYTES = 2 << 30

_Listing = tuple[int, int, dict[bytes, Seen], bool]  # the directory's mtime, mark, entries by name, cut short?


class ArchiveRoot(SpooledRoot):
    """A container's root as its engine shows it."""

    def __init__(
        self,
        engine: Engine,
        container_id: str,
        *,
        running: bool,
        spool_dir: Optional[str] = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("container %s" % container_id[:12], spool_dir)
        self._engine = engine
        self._id = container_id
        self._clock = clock
        self._due = Due(INTERVAL_S if running else STOPPED_INTERVAL_S, clock)
        self._listings: dict[bytes, _Listing] = {}
        self._marks = 0
        self._known: dict[bytes, Seen] = {}

    def tar(self, path: bytes, timeout_s: float) -> AbstractContextManager[Callable[[int], bytes]]:
        return self._engine.archive(self._id, path, timeout_s=timeout_s)

    def look(self, *, at_once: bool = False) -> None:
        if not self._due.now() and not at_once:
            return
        look = _Look(self, self._known)
        try:
            self.publish(look.tree())
            self._known, self.trouble = look.known, None
        except Unreadable as exc:
            self.trouble = exc.what
            raise

    def stat_path(self, path: bytes) -> Optional[Seen]:
        found = self._engine.path_stat(self._id, path)
        return None if found is None else Seen(found.kind, found.size, found.mtime_ns)

    def listing(self, path: bytes, mtime_ns: int) -> _Listing:
        """Return the entries of the directory PATH; streamed again only when its time has changed."""
        known = self._listings.get(path)
        if known is not None and known[0] == mtime_ns:
            return known
        entries: dict[bytes, Seen] = {}
        taken, cut = 0, False
        try:
            with self.tar(path, LISTING_S) as read:
                reader = TarReader(read)
                while not cut:
                    entry = reader.next()
                    if entry is None:
                        break
                    taken += entry.size
                    base, _slash, name = entry.name.partition(b"/")
                    if base != path.rpartition(b"/")[2]:
                        raise Refused("tar entry of another name", where=shown(path), cause=shown(entry.name))
                    if name and b"/" not in name:
                        entries[name] = Seen(entry.kind, entry.size, entry.mtime * 10**9)
                    cut = len(entries) > layout.MAX_SESSION_FILES or taken > MAX_LISTING_BYTES
        except EngineError as exc:
            # Too much to stream in the time there is: what came so far is better than nothing.
            if exc.kind != "hangs" or not entries:
                raise
            cut = True
        self._marks += 1
        self._listings[path] = (mtime_ns, self._marks, entries, cut)
        return self._listings[path]


class _Look:
    """One look at a container: HEADs of the known places, listings where something came or went."""

    def __init__(self, root: ArchiveRoot, before: Mapping[bytes, Seen]) -> None:
        self.known: dict[bytes, Seen] = {}  # transcripts whose size and time a HEAD told, now or before
        self._root = root
        self._before = before
        self._asked: dict[bytes, Optional[Seen]] = {b"": Seen("dir")}
        self._seen: dict[bytes, Seen] = {}
        self._marks: dict[bytes, int] = {}
        self._cut: set[bytes] = set()
        self._deadline = root._clock() + LOOK_S
        self._stats_left = MAX_STATS

    def tree(self) -> Tree:
        for base in layout.BASES:
            if self._is_dir(base):
                for name in (b".openclaw", b".openclaw-data"):
                    self._state(base + b"/" + name)
                if base in layout.DIRECT:
                    self._state(base)
        if not self._seen.keys() & {b"sandbox/.openclaw", b"sandbox/.openclaw-data"}:
            for other in layout.OTHER_AGENTS:
                if self._is_dir(other.place):
                    for path in other.databases:
                        self._stat(path)
        return Tree(self._seen, self._marks, frozenset(self._cut))

    def _stat(self, path: bytes) -> Optional[Seen]:
        """Return what PATH is, None when it or a directory on its way is not there or is no directory."""
        if path not in self._asked:
            if self._root._clock() > self._deadline:
                raise Unreadable("looking took longer than %g s" % LOOK_S, where=self._root.label)
            found = self._root.stat_path(path) if self._is_dir(path.rpartition(b"/")[0]) else None
            self._asked[path] = found
            if found is not None:
                self._seen[path] = found
        return self._asked[path]

    def _is_dir(self, path: bytes) -> bool:
        found = self._stat(path)
        return found is not None and found.kind == "dir"

    def _list(self, path: bytes) -> list[bytes]:
        """Add the entries of the directory PATH to what was seen; return their paths."""
        found = self._stat(path)
        if found is None or found.kind != "dir":
            return []
        _mtime, self._marks[path], entries, cut = self._root.listing(path, found.mtime_ns)
        if cut:
            self._cut.add(path)
        for name, seen in entries.items():
            self._seen.setdefault(path + b"/" + name, seen)
        return [path + b"/" + name for name in entries]

    def _state(self, state: bytes) -> None:
        if not self._is_dir(state):
            return
        workspaces = [state + b"/workspace"]
        listed = [path for path in self._list(state + b"/agents") if self._seen[path].kind == "dir"][: layout.MAX_AGENTS]
        # The usual one is not to be missed because another's files are too much to stream.
        main = state + b"/agents/main"
        agents = listed + [main] if main not in listed and self._is_dir(main) else listed
        for agent in agents:
            self._transcripts(agent + b"/sessions")
            self._stat(agent + b"/agent/openclaw-agent.sqlite")
            workspaces.append(state + b"/workspace-" + agent.rpartition(b"/")[2])
        for workspace in workspaces:
            if self._is_dir(workspace):
                for name in layout.MEMORY_NAMES:
                    self._stat(workspace + b"/" + name)
                self._list(workspace + b"/memory")

    def _transcripts(self, sessions: bytes) -> None:
        """List a directory of transcripts, then ask for the present size and time of those that may grow."""
        growing = []
        for path in self._list(sessions):
            name = path.rpartition(b"/")[2]
            meaning = layout.parse_session_name(name)
            if meaning is not None and meaning.kind != "live" and path in self._before:
                # What was archived stays as it is.
                self._seen[path] = self.known[path] = self._before[path]
            elif self._seen[path].kind == "file" and (meaning is not None or name == b"sessions.json"):
                growing.append(path)
        growing.sort(key=lambda path: -self._seen[path].mtime_ns)
        for path in growing:
            if self._stats_left <= 0:
                self._seen[path] = self._before.get(path, self._seen[path])
                continue
            self._stats_left -= 1
            found = self._stat(path)
            if found is None:
                self._seen.pop(path, None)
            else:
                self.known[path] = found
