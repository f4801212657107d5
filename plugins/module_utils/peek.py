# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""One value out of queue.db, for facts: all else of that file is for queue/ to know.

Apart, because what facts import travels to a host with every call of the module (contract P7).
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Optional
from urllib.parse import quote


def meta(path: str, key: str) -> Optional[str]:
    """Return one meta entry of a queue.db another process may be using; writes nothing. None when it cannot be read."""
    try:
        with contextlib.closing(sqlite3.connect("file:%s?mode=ro" % quote(path), uri=True, timeout=5.0)) as db:
            row = db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
    except sqlite3.Error:
        return None
    return None if row is None else str(row[0])
