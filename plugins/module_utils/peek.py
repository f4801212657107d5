# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Looking into our own databases without leaving anything beside them: one value of queue.db for facts, status, the archive.

Apart from queue/, because what facts import travels to a host with every call of the module (contract P7).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import Optional
from urllib.parse import quote


def open_to_read(path: str) -> sqlite3.Connection:
    """Return a connection that writes nothing, not even beside the database. Raises sqlite3.Error.

    To read a database that has a write-ahead log, SQLite makes the log and its index where they are missing. Where
    both are missing, nobody has the database open, and everything is in the one file: then it may be taken as it is.
    """
    in_use = any(os.path.exists(path + suffix) for suffix in ("-wal", "-shm"))
    uri = "file:%s?mode=ro%s" % (quote(path), "" if in_use else "&immutable=1")
    return sqlite3.connect(uri, uri=True, timeout=5.0, isolation_level=None, cached_statements=0)


def meta(path: str, key: str) -> Optional[str]:
    """Return one meta entry of a queue.db another process may be using; writes nothing. None when it cannot be read."""
    try:
        with contextlib.closing(open_to_read(path)) as db:
            row = db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
    except sqlite3.Error:
        return None
    return None if row is None else str(row[0])
