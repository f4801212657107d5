# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The status socket: a Unix socket (0600) in the state directory, one JSON request and one JSON answer each.

Requests: {"op": "status"} and {"op": "sync"} (wait until what is readable now is stored or acknowledged).
Only our own user and root are answered. There is no TCP listener.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from typing import Any, Callable, Iterator, Optional

from .errors import StateError

MAX_MESSAGE_BYTES = 64 << 20
ANSWER_TIMEOUT_S = 10.0
MAX_ADDRESS_BYTES = 104  # macOS has the least room
LOOK_WAIT_S = 10.0

Handler = Callable[[dict[str, Any]], dict[str, Any]]


def _read_all(connection: socket.socket, limit: int) -> bytes:
    data = bytearray()
    while len(data) <= limit:
        piece = connection.recv(65536)
        if not piece:
            return bytes(data)
        data += piece
    raise StateError("message of more than %d bytes on the status socket" % limit)


@contextlib.contextmanager
def _address(path: str) -> Iterator[str]:
    """Give PATH in a form that a socket address has room for: 107 bytes, by way of a held directory where it is longer."""
    if len(os.fsencode(path)) <= MAX_ADDRESS_BYTES:
        yield path
        return
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield "/proc/self/fd/%d/%s" % (directory, os.path.basename(path))
    finally:
        os.close(directory)


class Server:
    """Answers on the socket until stopped; every connection in turn, none for longer than its timeout."""

    def __init__(self, path: str, handler: Handler) -> None:
        self._handler = handler
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        # The instance lock is ours, so whatever lies there is a leftover.
        if os.path.lexists(path):
            os.unlink(path)
        previous = os.umask(0o177)
        try:
            with _address(path) as address:
                self._socket.bind(address)
        except OSError as exc:
            raise StateError("cannot make the status socket", where=path, cause=str(exc), next_step="look at state_dir") from exc
        finally:
            os.umask(previous)
        self._socket.listen(8)
        self._socket.settimeout(0.5)

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                connection, _peer = self._socket.accept()
            except socket.timeout:
                continue
            except OSError:
                if stop.wait(1.0):
                    break
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(ANSWER_TIMEOUT_S)
                credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
                if struct.unpack("3i", credentials)[1] not in (0, os.geteuid()):
                    return
                request = json.loads(_read_all(connection, 65536))
                answer = self._handler(request) if isinstance(request, dict) else {}
                connection.sendall(json.dumps(answer).encode())
            except (OSError, ValueError, RecursionError, StateError):
                return

    def close(self) -> None:
        self._socket.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)


def ask(path: str, request: dict[str, Any], timeout_s: float = ANSWER_TIMEOUT_S) -> Optional[dict[str, Any]]:
    """Return the running daemon's answer, None when none is running here. Raises StateError when it does not answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(timeout_s)
        try:
            with _address(path) as address:
                connection.connect(address)
            connection.sendall(json.dumps(request).encode())
            connection.shutdown(socket.SHUT_WR)
            answer = json.loads(_read_all(connection, MAX_MESSAGE_BYTES))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except PermissionError as exc:
            raise StateError("the status socket is not ours", where=path, next_step="run this as root or as the service's user") from exc
        except (OSError, ValueError) as exc:
            raise StateError("the running daemon does not answer", where=path, cause=str(exc) or "no answer in time") from exc
    return answer if isinstance(answer, dict) else None


def wait_for_sync(daemon: Any, stop: threading.Event, timeout_s: float) -> dict[str, Any]:
    """Wait, in a connection's thread, until a whole pass has begun and ended and the outbox has emptied once."""
    from .queue import Queue

    began = time.monotonic()
    queue = Queue(daemon.settings.queue_path, check=False)
    try:
        before, looks = daemon.totals(), daemon.finder.looks
        daemon.finder.nudge.set()  # a sandbox may have come since the last look
        while daemon.finder.looks == looks and time.monotonic() - began < min(timeout_s, LOOK_WAIT_S) and not stop.is_set():
            stop.wait(0.05)
        target = daemon.passes + 2
        quiet = 0
        while time.monotonic() - began < timeout_s and not stop.is_set():
            daemon.wake.set()
            if daemon.passes >= target:
                idle = queue.outbox_size()[0] == 0 and not daemon.busy
                quiet = quiet + 1 if idle else 0
                if quiet >= 2 or daemon.shipper.blocked:
                    break
                target = daemon.passes + 1
            stop.wait(0.05)
        after = daemon.totals()
        counts = queue.counts()
        errors = [daemon.trouble] if daemon.trouble else []
        errors += ["%s: %s" % item for item in daemon.finder.unreadable.items()]
        if daemon.shipper.blocked:
            errors.append("target %s: %s" % (daemon.shipper.health.state, daemon.shipper.health.reason))
        elif counts["pending"]:
            errors.append("%d envelopes still wait after %g s" % (counts["pending"], timeout_s))
        return outcome({name: after[name] - before[name] for name in before}, counts, errors, began)
    finally:
        queue.close()


def outcome(totals: dict[str, int], counts: dict[str, Any], errors: list[str], began: float) -> dict[str, Any]:
    """Return the ``sync`` mapping of the facts; BEGAN is on the monotonic clock."""
    return {
        "ran": True,
        "ok": not errors,
        **totals,
        "pending": counts["pending"],
        "quarantined": counts["quarantined"],
        "duration_ms": int((time.monotonic() - began) * 1000),
        "errors": errors,
    }
