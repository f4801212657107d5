# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Targets: where sealed envelopes go. One protocol, one file per target, one loop that feeds them."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Optional, Protocol


class Verdict(enum.Enum):
    """What a target made of one delivery (contract R16).

    ACK: taken; the outbox row goes. RETRY: the target's trouble, try for ever. PAUSE: it refuses us
    (401, 403, sync_allowed false); keep everything, say so loudly, try now and then. SPLIT: too large.
    DEAD: refused for good; the envelope is kept as a dead letter.
    """

    ACK = "ack"
    RETRY = "retry"
    PAUSE = "pause"
    SPLIT = "split"
    DEAD = "dead-letter"


@dataclass(frozen=True)
class Outcome:
    verdict: Verdict
    reason: str = ""
    retry_after_s: Optional[float] = None
    answer: Optional[dict[str, Any]] = None  # the JSON object of a 2xx, when there was one


class Target(Protocol):
    """A place envelopes are delivered to. No method raises for the target's trouble; it returns an Outcome."""

    url: str

    def register(self, node_id: Optional[str], hostname: str, machine_id: str) -> Outcome:
        """Say who we are; the answer may hold our node_id."""

    def deliver(self, endpoint: str, node_id: str, key: str, envelope: bytes) -> Outcome:
        """Hand over one envelope. Safe to repeat with the same KEY."""

    def heartbeat(self, body: dict[str, Any]) -> Outcome:
        """Tell that we live."""

    def close(self) -> None:
        """Let go of connections and files."""
