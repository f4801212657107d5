# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""What the child and who asks it agree on: limits, frames, and why nothing was read."""

from __future__ import annotations

import struct

MAX_EVENT_BYTES = 8 << 20
MAX_SEQ = 1 << 62
REASON_NO_TRANSCRIPTS = "no transcripts in it"
SIDECARS = (b"", b"-wal", b"-shm", b"-journal")

HEADER = struct.Struct(">cI")  # kind, length of what follows
ROW = struct.Struct(">Iq")  # index of the session asked for, seq; then the event's bytes


class Refusal(Exception):
    """What was found is never read, as no honest writer makes it; the message is the reason."""


class NotNow(Exception):
    """It cannot be read here and now; the message is the reason."""


class Unfit(Exception):
    """One event cannot be taken: (length, SHA-256 of what stands for it, reason)."""
