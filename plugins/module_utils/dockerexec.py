# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The one engine client that POSTs: it runs a command in a container, for route exec, which the operator has to allow.

Imported by name and from nowhere else, so that what only looks cannot run anything.
"""

from __future__ import annotations

import contextlib
import json
from typing import Callable, Iterator, Sequence

from .dockerapi import CONTAINER_ID, PIECE, Engine, EngineError
from .errors import shown


class ExecEngine(Engine):
    """An engine that may be told to run something."""

    @contextlib.contextmanager
    def run(self, container_id: str, argv: Sequence[str], timeout_s: float, user: str = "") -> Iterator[Callable[[int], bytes]]:
        """Run ARGV in a container, without stdin or terminal; yield a reader of its stdout. Raises EngineError.

        What it writes to stderr is dropped; whether it went well has to be told from what it printed.
        USER is a uid and gid as ``65534:65534``, by default the container's own.
        """
        if not CONTAINER_ID.fullmatch(container_id):
            raise EngineError("broken", "not a container id", where=shown(container_id))
        asked = {"AttachStdin": False, "AttachStdout": True, "AttachStderr": True, "Tty": False, "Cmd": list(argv), "User": user}
        target = "/containers/%s/exec" % container_id
        with self._answered("POST", target, self._timeout_s, asked) as (answer, read):
            text = read(PIECE)
            self._check_status(answer, target, 201)
        try:
            exec_id = json.loads(text)["Id"]
        except (ValueError, KeyError, TypeError, RecursionError):
            exec_id = None
        if not isinstance(exec_id, str) or not CONTAINER_ID.fullmatch(exec_id):
            raise EngineError("broken", "not an exec id", where=self.host)
        target = "/exec/%s/start" % exec_id
        with self._answered("POST", target, timeout_s, {"Detach": False, "Tty": False}) as (answer, read):
            self._check_status(answer, target)
            yield _stdout_of(read)


def _stdout_of(read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Return a reader of the stdout part of an attached stream: frames of 8 bytes (stream, 0, 0, 0, length) and content."""
    left = 0

    def exactly(length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = read(length - len(data))
            if not piece:
                return b""
            data += piece
        return data

    def stdout(limit: int) -> bytes:
        nonlocal left
        while not left:
            header = exactly(8)
            if not header:
                return b""
            length = int.from_bytes(header[4:], "big")
            if header[0] == 1:
                left = length
            while header[0] != 1 and length:
                piece = read(min(length, PIECE))
                if not piece:
                    return b""
                length -= len(piece)
        piece = read(min(limit, left))
        left -= len(piece)
        return piece

    return stdout
