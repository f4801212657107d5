# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The two streams: what was asked for on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from typing import TextIO


def _write(stream: TextIO, text: str) -> None:
    # A terminal that cannot show a letter gets its escape, never a traceback.
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def line(text: str = "") -> None:
    """Print an answer."""
    _write(sys.stdout, text + "\n")


def note(text: str = "", end: str = "\n") -> None:
    """Print a remark, at once."""
    _write(sys.stderr, text + end)
    sys.stderr.flush()
