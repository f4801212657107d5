# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""An agent's memory files: all of a sandbox's in one upload, whenever one of them has changed."""

from __future__ import annotations

import time
from typing import Any

from .. import wire
from ..errors import Refused, Unreadable, shown
from ..queue import Sealed, idempotency_key
from ..read import layout
from ..read.routes import memory_name
from .sealing import Sealing
from .state import signature_of

MEMORY_INTERVAL_S = 5.0
MAX_MEMORY_BYTES_PER_UPLOAD = 6 << 20


class Memory:
    """The memory files of one sandbox."""

    def __init__(self, sandbox: Sealing) -> None:
        self._sandbox = sandbox
        self._seen: dict[bytes, tuple[Any, ...]] = {}
        self._looked_at = sandbox.context.clock()

    def enqueue(self, *, at_once: bool = False) -> bool:
        """Enqueue the sandbox's memory files when any of them changed. True when something was stored."""
        now = self._sandbox.context.clock()
        if not at_once and now - self._looked_at < MEMORY_INTERVAL_S:
            return False
        self._looked_at = now
        found = [
            (workspace, name, seen)
            for state in self._sandbox.held.states
            for workspace in state.workspaces
            for name, seen in layout.memory_files(self._sandbox.held.root, workspace)
        ]
        seen_now: dict[bytes, tuple[Any, ...]] = {workspace + b"/" + name: signature_of(seen) for workspace, name, seen in found}
        if seen_now == self._seen or not found:
            return False
        files, left, whole = [], MAX_MEMORY_BYTES_PER_UPLOAD, True
        for workspace, name, _seen in found:
            path = workspace + b"/" + name
            try:
                data, read = self._sandbox.held.root.read_small(path, min(left, wire.MAX_MEMORY_CHARS * 4))
                self._sandbox.problems.pop(shown(path), None)
            except FileNotFoundError:
                continue
            except Unreadable as exc:
                self._sandbox.problem(shown(path), str(exc), refused=isinstance(exc, Refused))
                whole = whole and isinstance(exc, Refused)
                continue
            left -= len(data)
            files.append(
                {
                    "name": memory_name(workspace, name).decode("utf-8", "backslashreplace"),
                    "size": read.st_size,
                    "modified": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(max(0, min(read.st_mtime, 2**33)))),
                    "content": data.decode("utf-8", "replace")[: wire.MAX_MEMORY_CHARS],
                }
            )
        if whole:
            self._seen = seen_now  # else it is looked at again, though nothing changes
        if not files:
            return False
        plaintext = wire.memory(node_id=self._sandbox.context.node_id, files=files, source=self._sandbox.source(None))
        digest = idempotency_key(self._sandbox.sandbox.uid, plaintext)
        slot = "memory:" + self._sandbox.sandbox.uid
        if self._sandbox.context.queue.get_meta(slot) == digest:
            return False
        envelope = self._sandbox.context.sealer.seal(plaintext, compress=self._sandbox.context.compress())
        self._sandbox.context.queue.enqueue(Sealed(wire.MEMORY, digest, envelope, len(files), slot=slot), meta=(slot, digest))
        self._sandbox.batches += 1
        self._sandbox.bytes += len(envelope)
        return True
