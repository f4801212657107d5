# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The one subprocess runner: argv only, stdin closed or fed, clean environment, timeout, output cap, group killed.

Nothing else in the engine may import subprocess.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Callable, Mapping, Optional, Sequence

from .errors import CommandError, shown

DEFAULT_TIMEOUT_S = 10.0
NO_TIME = "the time given is over"
DEFAULT_OUTPUT_CAP = 4 * 1024 * 1024
_BASE_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True)
class Result:
    """What a command answered. ``stdout`` and ``stderr`` are capped and untrusted bytes."""

    argv: tuple[str, ...]
    rc: int
    stdout: bytes
    stderr: bytes


Runner = Callable[..., Result]


def until(runner: Runner, ends_at: float) -> Runner:
    """Return a runner that gives no command more time than is left until ENDS_AT, on the monotonic clock."""

    def bounded(argv: Sequence[str], *, timeout_s: float = DEFAULT_TIMEOUT_S, **options: object) -> Result:
        left = ends_at - time.monotonic()
        if left <= 0:
            raise CommandError("not run", where=shown(" ".join(argv)), cause=NO_TIME)
        return runner(argv, timeout_s=min(timeout_s, left), **options)

    return bounded


def run(
    argv: Sequence[str],
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    output_cap: int = DEFAULT_OUTPUT_CAP,
    env: Optional[Mapping[str, str]] = None,
    user: Optional[int] = None,
    group: Optional[int] = None,
    stdin: Optional[bytes] = None,
    pass_fds: Sequence[int] = (),
    stdout_to: Optional[int] = None,
) -> Result:
    """Run ARGV without a shell and return its result, whatever its exit code.

    ``env`` is added to a short base environment, never the caller's own. ``user``/``group`` (numeric)
    drop to that account, with no supplementary groups. ``stdin`` is fed to it, and it gets ``pass_fds``.
    What it prints is returned, or with ``stdout_to`` written to that descriptor as it comes. Raises CommandError
    when it cannot be started, runs past ``timeout_s``, or prints more than ``output_cap`` bytes; its whole
    process group is killed then.
    """
    where = shown(" ".join(argv))
    environment = dict(_BASE_ENV)
    environment.update(env or {})
    try:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd="/",
            start_new_session=True,
            close_fds=True,
            pass_fds=tuple(pass_fds),
            user=user,
            group=user if group is None else group,
            extra_groups=None if user is None else (),
        )
    except (OSError, ValueError) as exc:
        raise CommandError("cannot run", where=where, cause=str(exc)) from exc
    streams = {pipe.fileno(): bytearray() for pipe in (child.stdout, child.stderr) if pipe is not None}
    aside = child.stdout.fileno() if child.stdout is not None and stdout_to is not None else -1
    put_aside = 0
    deadline = time.monotonic() + timeout_s
    failure = ""
    try:
        with selectors.DefaultSelector() as selector:
            for fd in streams:
                selector.register(fd, selectors.EVENT_READ)
            to_feed = memoryview(stdin or b"")
            feed = child.stdin
            if feed is not None:
                os.set_blocking(feed.fileno(), False)
                selector.register(feed, selectors.EVENT_WRITE)
            while selector.get_map() and not failure:
                left = deadline - time.monotonic()
                if left <= 0:
                    failure = "no answer after %g s" % timeout_s
                    break
                for key, _events in selector.select(left):
                    if feed is not None and key.fileobj is feed:
                        try:
                            to_feed = to_feed[os.write(key.fd, to_feed[:4096]) :]  # PIPE_BUF
                        except BrokenPipeError:
                            to_feed = to_feed[:0]
                        if not to_feed:
                            selector.unregister(feed)
                            feed.close()
                        continue
                    piece = os.read(key.fd, 65536)
                    if not piece:
                        selector.unregister(key.fd)
                    if key.fd == aside and stdout_to is not None:
                        put_aside += len(piece)
                        failure = _kept(stdout_to, piece) if put_aside <= output_cap else failure
                        continue
                    streams[key.fd] += piece
                if put_aside + sum(map(len, streams.values())) > output_cap:
                    failure = "more than %d bytes of output" % output_cap
        if not failure:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                failure = "no exit after %g s" % timeout_s
    finally:
        out, err = (bytes(buffer) for buffer in streams.values())
        # The group may hold grandchildren that kept the pipes open.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                stream.close()
        child.wait()
    if failure:
        raise CommandError("command stopped", where=where, cause=failure)
    return Result(tuple(argv), int(child.returncode), out, err)


def _kept(to: int, data: bytes) -> str:
    """Write all of DATA to a descriptor; return why that did not go, "" when it did."""
    try:
        while data:
            data = data[os.write(to, data) :]
    except OSError as exc:
        return "its output cannot be kept: %s" % os.strerror(exc.errno or 0)
    return ""
