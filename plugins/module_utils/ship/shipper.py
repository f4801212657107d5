# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Feeds one target from the outbox: one envelope at a time, in order, until each is acknowledged.

States of the target: ok, retrying (its trouble: full jitter, at most 5 minutes, Retry-After honoured),
paused (it refuses us, or asked for a pause; everything is kept and it is tried again now and then).
A row leaves the outbox by ack, split or dead letter only, and into the dead letters as long as they have room.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any, Callable, Optional

from .. import wire
from ..errors import ClawmetryError
from ..log import Log
from ..queue import OutboxRow, Queue, Sealed, idempotency_key
from ..seal import Sealer
from . import Outcome, Target, Verdict

HEARTBEAT_INTERVAL_S = 60.0
BACKOFF_BASE_S = 1.0
BACKOFF_CAP_S = 300.0
# A refused key is not asked about more often than this; SIGHUP or a restart asks at once.
PAUSE_BASE_S = 15.0


@dataclass
class Health:
    """What status shows of the target."""

    state: str = "ok"
    reason: Optional[str] = None
    retries: int = 0  # since the last success
    retries_total: int = 0
    delivered: int = 0


class Shipper:
    """Call step() in a loop; it returns how many seconds there is nothing to do."""

    def __init__(
        self,
        queue: Queue,
        target: Target,
        sealer: Sealer,
        node_id: str,
        log: Log,
        *,
        heartbeat: Callable[[], dict[str, Any]],
        dead_letter_max_bytes: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.queue = queue
        self.target = target
        self.health = Health()
        self.blob_gzip = False
        self._sealer = sealer
        self._node_id = node_id
        self._log = log
        self._heartbeat = heartbeat
        self._dead_letter_max_bytes = dead_letter_max_bytes
        self._clock = clock
        self._uniform = uniform
        self._not_before = 0.0
        self._heartbeat_at = -1e9
        self._sync_allowed = True

    def step(self) -> float:
        """Send at most one heartbeat and one envelope. 0 means: call again at once."""
        now = self._clock()
        if now - self._heartbeat_at >= HEARTBEAT_INTERVAL_S:
            self._heartbeat_at = now
            self.heed(self.target.heartbeat(self._heartbeat()))
        if not self._sync_allowed:
            self._set("paused", "the ingest answered sync_allowed=false")
            return self._until_heartbeat()
        if now < self._not_before:
            return min(self._not_before - now, self._until_heartbeat())
        row = self.queue.next()
        if row is None:
            return self._until_heartbeat()
        outcome = self.target.deliver(row.endpoint, self._node_id, row.key, row.payload)
        self.heed(outcome)
        return self._settle(row, outcome)

    @property
    def blocked(self) -> bool:
        """Is the target in trouble, so that waiting for the outbox to empty may take for ever?"""
        return self.health.state != "ok"

    def _until_heartbeat(self) -> float:
        return max(0.0, self._heartbeat_at + HEARTBEAT_INTERVAL_S - self._clock())

    def _settle(self, row: OutboxRow, outcome: Outcome) -> float:
        if outcome.verdict is Verdict.RETRY:
            return self._back_off("retrying", outcome, BACKOFF_BASE_S)
        if outcome.verdict is Verdict.PAUSE:
            return self._back_off("paused", outcome, PAUSE_BASE_S)
        if outcome.verdict is Verdict.ACK:
            self.queue.ack(row)
            self.health.delivered += 1
        elif not (self._split(row) if outcome.verdict is Verdict.SPLIT else self._bury(row, outcome.reason)):
            return self._keep(row, outcome)
        self.health.retries = 0
        if self._sync_allowed:
            self._set("ok", None)
        return 0.0

    def _back_off(self, state: str, outcome: Outcome, base_s: float) -> float:
        self.health.retries += 1
        self.health.retries_total += 1
        ceiling = min(BACKOFF_CAP_S, base_s * 2.0 ** min(self.health.retries, 16))
        delay = self._uniform(0.0, ceiling)
        if outcome.retry_after_s is not None:
            delay = max(delay, outcome.retry_after_s)
        self._not_before = self._clock() + delay
        self._set(state, outcome.reason)
        return delay

    def _split(self, row: OutboxRow) -> bool:
        """Put two halves in the place of a row that is too large; a single record is buried. False when it is still there."""
        try:
            halves = wire.split(self._sealer.open(row.payload))
        except (ClawmetryError, ValueError, RecursionError):
            halves = None
        if halves is None:
            return self._bury(row, "HTTP 413, and it is a single record")
        first = row.records // 2
        parts = [
            Sealed(row.endpoint, idempotency_key(row.key, number), self._sealer.seal(half, compress=self.blob_gzip), count)
            for number, (half, count) in enumerate(zip(halves, (first, row.records - first)))
        ]
        self.queue.split(row, parts)
        self._log("info", "split", endpoint=row.endpoint, key=row.key, records=row.records)
        return True

    def _bury(self, row: OutboxRow, reason: str) -> bool:
        """Move a row to the dead letters. False when these have no room left: then it stays."""
        if not self.queue.room_for_dead_letter(row, self._dead_letter_max_bytes):
            return False
        self.queue.dead_letter(row, reason)
        self._log("error", "dead-letter", endpoint=row.endpoint, key=row.key, records=row.records, reason=reason)
        return True

    def _keep(self, row: OutboxRow, outcome: Outcome) -> float:
        """The target refuses, and as much as may be kept aside is: from here on the outbox, then the files, hold what it does not take."""
        self.queue.pass_over(row)
        full = "it refuses (%s), and the dead letters are full; next: clawmetry dead-letters" % outcome.reason
        return self._back_off("paused", Outcome(Verdict.PAUSE, full, outcome.retry_after_s), PAUSE_BASE_S)

    def heed(self, outcome: Outcome) -> None:
        """Take in what any answer may carry: caps.blob_gzip and sync_allowed. Anything else is ignored."""
        answer = outcome.answer
        if answer is None or outcome.verdict is not Verdict.ACK:
            return
        caps = answer.get("caps")
        if isinstance(caps, dict) and "blob_gzip" in caps:
            self.blob_gzip = caps["blob_gzip"] is True
        if "sync_allowed" in answer:
            allowed = answer["sync_allowed"] is not False
            if allowed and not self._sync_allowed:
                self._set("ok", None)
            self._sync_allowed = allowed

    def _set(self, state: str, reason: Optional[str]) -> None:
        self.health.state, self.health.reason = state, reason
        self._log.state("target", None if state == "ok" else "%s: %s" % (state, reason), "error" if state == "paused" else "warning")
