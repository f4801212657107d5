# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""From a held sandbox to the queue: see what changed, read a turn, seal it, commit it with its cursor.

One SandboxSync per held sandbox. It never blocks on the network and never raises for one bad
source: a source that cannot be read is noted in ``problems`` and tried again when it changes.

watch: what has changed. turns: reading it. database: the same for an agent's SQLite. memory: memory
files. sealing: from a batch to the queue. sessions: the rows that list sessions. state: what is known in between.
"""

from __future__ import annotations

from typing import Any, Optional

from ..queue import SessionRow
from ..read.routes import HeldSandbox
from .memory import Memory
from .sessions import ACTIVE_S, IDLE_S, session_row
from .state import Context, Work
from .turns import Turns

__all__ = ["Context", "SandboxSync", "Work", "session_row"]


class SandboxSync(Turns):
    """Reads one sandbox. Call scan() for the sources that have something new, turn() for each of them."""

    def __init__(self, held: HeldSandbox, context: Context) -> None:
        super().__init__(held, context)
        self._memory = Memory(self)
        self._quiet_at = context.clock()

    def close(self) -> None:
        self.held.close()

    def memory(self, *, at_once: bool = False) -> bool:
        """Enqueue the sandbox's memory files when any of them changed. True when something was stored."""
        return self._memory.enqueue(at_once=at_once)

    def session_row(self, stored: SessionRow) -> Optional[dict[str, Any]]:
        """Return the row of /ingest/sessions for one of our sessions: counts in the clear, its title sealed."""
        agent = next((item for item in self._agents.values() if self._agent_key(item.place) == stored.agent), None)
        return session_row(stored, agent.index if agent is not None else {}, self.sandbox, self.context.sealer)

    def quiet_sessions(self) -> None:
        """Mark the rows of sessions that have just become idle or ended, so that their new status is sent."""
        now, before = self.context.clock(), self._quiet_at
        self._quiet_at = now
        self.context.queue.touch_sessions(
            [
                file.row.session
                for agent in self._agents.values()
                for file in [*agent.files.values(), *(agent.database.sessions.values() if agent.database is not None else ())]
                if file.changed_at and any(before < file.changed_at + limit <= now for limit in (ACTIVE_S, IDLE_S))
            ]
        )
