# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""What all reading of one sandbox has in common: whose data it is, how a batch of it is sealed, and what is wrong with its sources."""

from __future__ import annotations

from typing import Optional

from .. import wire
from ..model import Sandbox
from ..queue import Sealed, SourceRow, idempotency_key
from ..read import layout, tail
from ..read.routes import HeldSandbox
from .state import Agent, Context

MAX_PROBLEMS = 100


class Sealing:
    """One held sandbox on its way to the queue."""

    def __init__(self, held: HeldSandbox, context: Context) -> None:
        self.held = held
        self.context = context
        self.problems: dict[str, str] = {}
        self._refused: set[str] = set()
        self.events = self.batches = self.bytes = 0

    @property
    def sandbox(self) -> Sandbox:
        return self.held.sandbox

    def problem(self, label: str, text: str, *, refused: bool = False) -> None:
        """Note what is wrong with a source; REFUSED is what is never opened, and so no failure of ours."""
        if label in self.problems or len(self.problems) < MAX_PROBLEMS:
            self.problems[label] = text
            (self._refused.add if refused else self._refused.discard)(label)

    def failures(self) -> dict[str, str]:
        """Return the problems that kept a sync from being complete: without what a sandbox planted for us to trip over."""
        return {label: text for label, text in self.problems.items() if label not in self._refused}

    def _agent_key(self, place: layout.Agent) -> bytes:
        """Cursors of two state directories of one sandbox (profiles) must not meet: the path in the sandbox tells them apart."""
        return self.held.place + b"/" + place.sessions if self.held.place else place.sessions

    def _commit(self, agent: Agent, meaning: layout.SessionName, turn: tail.Turn) -> None:
        """Seal what a turn took and store it with its cursor."""
        sealed = [self._seal(agent, meaning, turn.row, batch) for batch in turn.batches]
        counted = turn.counts.text() if turn.batches else None
        identity = (self.sandbox.uid, self._agent_key(agent.place), meaning.session)
        self.context.queue.commit_turn(turn.row, identity, sealed, turn.hashes, turn.poison, counted)
        agent.sessions[meaning.session] = turn.row.session
        self.batches += len(sealed)
        self.bytes += sum(len(batch.payload) for batch in sealed)
        self.events += sum(batch.records for batch in sealed)

    def _seal(self, agent: Agent, meaning: layout.SessionName, row: SourceRow, batch: tail.Batch) -> Sealed:
        session = meaning.session.decode("utf-8", "backslashreplace")
        entry = agent.index.get(session)
        key = idempotency_key(
            self.sandbox.uid,
            self._agent_key(agent.place),
            meaning.session,
            row.ino,
            row.generation,
            batch.start,
            batch.end,
            batch.lines[0],
            batch.lines[-1],
        )
        records = len(batch.lines)

        def plaintext() -> bytes:
            """The batch as one text; its lines are let go, for one of 8 MiB is not to be there twice."""
            lines, batch.lines = batch.lines, []
            return wire.events(
                node_id=self.context.node_id,
                session_file=session + ".jsonl",
                lines=lines,
                source=self.source(agent.place.agent),
                subagent_id=entry.subagent_id if entry is not None else None,
            )

        return Sealed(wire.EVENTS, key, self.context.sealer.seal(plaintext(), compress=self.context.compress()), records)

    def source(self, agent: Optional[bytes]) -> dict[str, Optional[str]]:
        source: dict[str, Optional[str]] = {
            "sandbox.name": self.sandbox.name,
            "sandbox.type": self.sandbox.type,
            "sandbox.id": self.sandbox.uid,
        }
        if agent is not None:
            source["agent"] = agent.decode("utf-8", "backslashreplace")
        return source
