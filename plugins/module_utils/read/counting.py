# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Which sessions a sandbox's databases hold, for facts. Asked only when a database has changed since."""

from __future__ import annotations

import time
from typing import Optional

from ..errors import Unreadable
from . import sqlitestore
from .opener import HeldDir

# Of one sandbox's databases that cannot be read, so long in a minute: facts are waited for.
MAX_S, PERIOD_S = 3.0, 60.0


class Counter:
    """The databases below one held root, and what was found in them."""

    def __init__(self, root: HeldDir, own_home: bool) -> None:
        self._root = root
        self._own_home = own_home
        self._known: dict[bytes, tuple[object, Optional[tuple[frozenset[str], Optional[str]]]]] = {}
        self._since, self._spent = -1e9, 0.0

    def sessions(self, path: bytes) -> Optional[tuple[frozenset[str], Optional[str], int, float]]:
        """Return (sessions, why these are not all, size in bytes, newest mtime) of the database at PATH.

        None when no transcripts are kept in it.
        """
        try:
            now = sqlitestore.look(self._root, path)
        except Unreadable as exc:
            return frozenset(), str(exc), 0, 0.0
        if now is None:
            return None
        if path not in self._known or self._known[path][0] != now:
            began = time.monotonic()
            if began - self._since > PERIOD_S:
                self._since, self._spent = began, 0.0
            if self._spent > MAX_S:
                return frozenset(), "reading its databases takes too long", 0, 0.0
            self._known[path] = (now, self._ask(path))
            self._spent += time.monotonic() - began
        found = self._known[path][1]
        if found is None:
            return None
        return found[0], found[1], sum(size for _ino, size, _mtime in now), max(mtime for _ino, _size, mtime in now) / 1e9

    def _ask(self, path: bytes) -> Optional[tuple[frozenset[str], Optional[str]]]:
        try:
            names, whole = sqlitestore.all_sessions(self._root, path, own_home=self._own_home)
            return frozenset(names), None if whole else "more than %d sessions; the rest is not read" % sqlitestore.MAX_SESSIONS
        except sqlitestore.NoTranscripts:
            return None
        except Unreadable as exc:
            return frozenset(), str(exc)
