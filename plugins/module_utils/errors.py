# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""One small family of errors: what was tried, where, why it failed, what to do next.

The subclass decides what the caller does. No message may carry a secret or a
sandbox's content; names that came from a sandbox go through ``shown``.
"""

from __future__ import annotations

import codecs
from typing import Union

# Loaded now: when a message has to be made because no descriptor is left, nothing can be loaded any more.
codecs.lookup("unicode_escape")


def shown(value: Union[str, bytes, None], limit: int = 200) -> str:
    """Return VALUE as printable ASCII on one line, at most LIMIT characters.

    Names, labels and paths are chosen by a sandbox: control characters, ANSI
    sequences, right-to-left marks and non-UTF-8 bytes come back escaped.
    """
    if value is None:
        return "-"
    start = value[: limit * 4]
    text = start.decode("utf-8", "backslashreplace") if isinstance(start, bytes) else start
    escaped = text.encode("unicode_escape").decode("ascii")
    return escaped if len(escaped) <= limit else escaped[: limit - 3] + "..."


class ClawmetryError(Exception):
    """What went wrong, where, why, and the next command to type."""

    def __init__(self, what: str, *, where: str = "", cause: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.cause = cause
        self.next_step = next_step

    def __str__(self) -> str:
        text = self.what
        if self.where:
            text += " (" + self.where + ")"
        if self.cause:
            text += ": " + self.cause
        if self.next_step:
            text += ". Next: " + self.next_step
        return text


class ConfigError(ClawmetryError):
    """The configuration, a key or a permission is not acceptable; nothing was started."""


class StateError(ClawmetryError):
    """The state directory or queue.db is damaged, newer, or held by another process."""


class Unreadable(ClawmetryError):
    """A sandbox, directory or file could not be read now; isolated to that source."""


class Refused(Unreadable):
    """A sandbox object that is never opened: link, device, FIFO, socket, directory."""


class DeliveryError(ClawmetryError):
    """A target could not take an envelope; the envelope stays in the outbox."""


class CommandError(ClawmetryError):
    """A bounded subprocess failed, timed out, or printed more than its cap."""
