# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Route ``exec`` by OpenShell's own CLI: the way into a sandbox in a virtual machine or behind a gateway elsewhere.

``openshell sandbox exec`` as the user whose gateway it is, never with an input (it reads that to its end before
it begins), never without a name (it would take the last one used), and with an end of our own (it has none). It writes
which sandbox was used last into that user's configuration, and the gateway logs it: hence only where route exec is allowed.
In there a login shell starts, which may print something first. Imported by name (P7).
Source: reference/openshell.md §3, 4 (the verb is there from 0.0.23 on, workspaces from 0.0.88).
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from typing import IO, Callable, Iterator, Optional, Sequence

from .. import run
from ..discover import openshelltext
from ..dockerapi import EngineError
from ..errors import CommandError, Unreadable, shown
from ..model import CliPlace
from .execroute import ExecRoot
from .spool import MAX_FILE_BYTES

SINCE = (0, 0, 23)
WORKSPACES_SINCE = (0, 0, 88)
GET_TIMEOUT_S = 4.0
# A tar stream's own headers and padding, and what a login shell prints.
MAX_MORE_BYTES = 1 << 20
MAX_GREETING = 64 << 10
_BEGIN = b"clawmetry-begins-here\n"
_SCRIPT = 'echo %s; exec "$@"' % _BEGIN.decode("ascii").strip()


def open_root(place: CliPlace, spool_dir: Optional[str], runner: run.Runner = run.run) -> ExecRoot:
    """Return the root of a sandbox that OpenShell lists as ready, looked at once. Raises Unreadable."""
    if place.version and place.version < SINCE:
        raise Unreadable("this openshell cannot run anything in a sandbox", where=place.program, cause="it is older than 0.0.23")

    @contextlib.contextmanager
    def started(argv: Sequence[str], timeout_s: float) -> Iterator[Callable[[int], bytes]]:
        with _spooled(spool_dir) as spooled:
            _run(place, argv, timeout_s, spooled.fileno(), runner)
            spooled.seek(0)
            _pass_greeting(spooled.read(MAX_GREETING), spooled.seek)
            yield spooled.read

    label = "sandbox %s of gateway %s" % (shown(place.name), shown(place.gateway))
    root = ExecRoot(started, label, spool_dir=spool_dir, confirm=lambda: _confirm(place, runner))
    root.look(at_once=True)
    return root


def _spooled(spool_dir: Optional[str]) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(dir=spool_dir, buffering=0)
    except OSError as exc:
        raise Unreadable("nowhere to spool a file", cause=os.strerror(exc.errno or 0)) from exc


def words_of(place: CliPlace, argv: Sequence[str], timeout_s: float) -> tuple[str, ...]:
    """Return the CLI's whole command line for ARGV in the sandbox."""
    named = (*_workspace(place), "-n", place.name, "--no-tty", "--timeout", str(max(1, math.ceil(timeout_s))))
    return (place.program, "sandbox", "exec", "-g", place.gateway, *named, "--", "/bin/sh", "-c", _SCRIPT, "sh", *argv)


def _workspace(place: CliPlace) -> tuple[str, ...]:
    known = place.workspace is not None and (not place.version or place.version >= WORKSPACES_SINCE)
    return ("--workspace", place.workspace) if known and place.workspace is not None else ()


def _run(place: CliPlace, argv: Sequence[str], timeout_s: float, to: int, runner: run.Runner) -> None:
    """Run ARGV in the sandbox, its output to the descriptor TO. Raises EngineError."""
    words = words_of(place, argv, timeout_s)
    where = shown("%s sandbox exec -n %s" % (place.program, place.name))
    try:
        answer = _asked(place, words, runner, timeout_s=timeout_s, output_cap=MAX_FILE_BYTES + MAX_MORE_BYTES, stdout_to=to)
    except CommandError as exc:
        kind = "hangs" if exc.cause.startswith(("no answer", "no exit")) else "broken"
        raise EngineError(kind, "openshell sandbox exec: " + exc.what, where=where, cause=exc.cause) from exc
    # The exit code is the remote program's own: tar ends with 1 when a file grew. Whether all came is told by what came.
    if answer.rc != 0 and os.fstat(to).st_size == 0:
        why = openshelltext.error_kind(answer.rc, answer.stderr)
        raise EngineError("broken", "openshell sandbox exec failed", where=where, cause="%s (rc %d)" % (why, answer.rc))


def _asked(place: CliPlace, words: Sequence[str], runner: run.Runner, **options: object) -> run.Result:
    if place.user is not None:
        options.update(user=place.user, group=place.group)
    return runner(words, env=dict(place.environment), **options)


def _pass_greeting(head: bytes, seek: Callable[[int], int]) -> None:
    """Go to where the program's own output begins. Raises EngineError when it never does."""
    at = head.find(_BEGIN)
    if at < 0:
        raise EngineError("broken", "the sandbox's shell did not come to the command")
    seek(at + len(_BEGIN))


def _confirm(place: CliPlace, runner: run.Runner) -> None:
    """Is the sandbox of that name still the one that was listed? A name is given again; its cursors must not be."""
    words = (place.program, "sandbox", "get", "-g", place.gateway, *_workspace(place), "--", place.name)
    try:
        answer = _asked(place, words, runner, timeout_s=GET_TIMEOUT_S)
    except CommandError as exc:
        raise Unreadable("openshell sandbox get: " + exc.what, where=shown(place.name), cause=exc.cause) from exc
    got = openshelltext.parse_get(answer.stdout) if answer.rc == 0 else None
    if got is None or got.id != place.id:
        raise Unreadable("the gateway does not say that this name is still sandbox %s" % shown(place.id), where=shown(place.name))
