# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Which lines of a session were sent already: 8-byte hashes, consulted only while a rewritten file is read again.

A session's lines come back when its file is truncated and rewritten, replaced, compacted or renamed
(reference/openclaw.md §2 "Write pattern"). The k-th occurrence of a line is new only if it was sent
fewer than k times before; so nothing sent is sent again, and nothing new is held back.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left, bisect_right
from typing import Iterable

HASH_BYTES = 8
# Per session; beyond it the oldest lines of a rewritten session may be sent twice.
MAX_HASHES = 300_000


def line_hash(line: bytes) -> bytes:
    return hashlib.sha256(line).digest()[:HASH_BYTES]


class SentLines:
    """A multiset of line hashes in 9 bytes each, from which occurrences are taken."""

    def __init__(self, runs: Iterable[bytes]) -> None:
        collected = array("Q")
        for run in runs:
            collected.frombytes(run[: len(run) - len(run) % HASH_BYTES])
        self._hashes = array("Q", sorted(collected))
        self._taken = bytearray(len(self._hashes))
        self.left = len(self._hashes)  # occurrences that were sent and have not come by again

    def __len__(self) -> int:
        return len(self._hashes)

    def take(self, digest: bytes) -> bool:
        """Was this line sent more often than it has been taken? Takes one occurrence if so."""
        number = array("Q", digest)[0]
        left = bisect_left(self._hashes, number)
        right = bisect_right(self._hashes, number, left)
        free = self._taken.find(0, left, right)
        if free < 0:
            return False
        self._taken[free] = 1
        self.left -= 1
        return True
