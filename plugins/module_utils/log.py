# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Log lines: key=value on stderr, one line per event, ids and sizes but never content or secrets."""

from __future__ import annotations

import time
from typing import Optional

from .errors import shown
from .terminal import note

LEVELS = ("debug", "info", "warning", "error")


class Log:
    """Writes events of a level and above. A repeated state is said once: see ``state``."""

    def __init__(self, level: str = "info", stamp: bool = False) -> None:
        self._least = LEVELS.index(level)
        self._stamp = stamp
        self._states: dict[str, str] = {}

    def __call__(self, level: str, event: str, **fields: object) -> None:
        if LEVELS.index(level) < self._least:
            return
        parts = ["level=" + level, "event=" + event]
        if self._stamp:
            parts.insert(0, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        for key, value in fields.items():
            text = shown(value if isinstance(value, (str, bytes)) else str(value), 500)
            parts.append('%s="%s"' % (key, text.replace('"', "'")) if " " in text or not text else "%s=%s" % (key, text))
        note(" ".join(parts))

    def state(self, subject: str, text: Optional[str], level: str = "warning") -> None:
        """Say that SUBJECT has come into the state TEXT (None: it is well again); the same state is not said twice."""
        before = self._states.get(subject)
        if text == before:
            return
        if text is None:
            del self._states[subject]
            self("info", "recovered", subject=subject)
        else:
            self._states[subject] = text
            self(level, "trouble", subject=subject, reason=text)
