# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Docker Engine API over a unix socket: three GET requests, nothing else.

Every request has a deadline and a size cap; an answer is JSON that is checked before use.
Never POSTs, never PUTs, never keeps a container's environment (Config.Env may hold secrets).
Podman's compatible socket answers the same requests. Source: Engine API v1.41 and later.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from typing import Any, Mapping, Optional

from .errors import Unreadable, shown

DEFAULT_HOST = "unix:///var/run/docker.sock"
DEFAULT_TIMEOUT_S = 5.0
DEFAULT_CAP_BYTES = 32 * 1024 * 1024
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
_PIECE = 64 * 1024


class EngineError(Unreadable):
    """An engine could not be asked. ``kind`` is one of absent, denied, refused, hangs, gone, unsupported, broken."""

    def __init__(self, kind: str, what: str, *, where: str = "", cause: str = "", next_step: str = "") -> None:
        super().__init__(what, where=where, cause=cause, next_step=next_step)
        self.kind = kind


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def socket_path(docker_host: str) -> str:
    """Return the path in ``unix:///var/run/docker.sock``. Raises EngineError for any other kind of address."""
    scheme, _sep, path = docker_host.partition("://")
    if scheme != "unix" or not path.startswith("/"):
        raise EngineError("unsupported", "only unix:// engine addresses are supported", where=shown(docker_host))
    return path


class Engine:
    """One engine, asked with one short connection per request, so a restart of the engine is not noticed."""

    def __init__(self, host: str = DEFAULT_HOST, *, timeout_s: float = DEFAULT_TIMEOUT_S, cap_bytes: int = DEFAULT_CAP_BYTES) -> None:
        self.host = host
        self._timeout_s = timeout_s
        self._cap_bytes = cap_bytes

    def version(self) -> Mapping[str, Any]:
        """Return GET /version: ``{"Version": "28.2.2", "Components": [...], ...}``. Raises EngineError."""
        answer = self._get("/version")
        if not isinstance(answer, dict):
            raise EngineError("broken", "not an engine's answer", where=self.host + " /version")
        return answer

    def containers(self) -> list[Mapping[str, Any]]:
        """Return the rows of GET /containers/json?all=1 that are objects, stopped containers too. Raises EngineError."""
        answer = self._get("/containers/json?all=1")
        if not isinstance(answer, list):
            raise EngineError("broken", "not a list of containers", where=self.host)
        return [row for row in answer if isinstance(row, dict)]

    def inspect(self, container_id: str) -> Mapping[str, Any]:
        """Return GET /containers/{id}/json without Config.Env. Raises EngineError, kind "gone" when there is no such container."""
        if not _CONTAINER_ID.fullmatch(container_id):
            raise EngineError("broken", "not a container id", where=shown(container_id))
        answer = self._get("/containers/%s/json" % container_id)
        if not isinstance(answer, dict):
            raise EngineError("broken", "not a container", where=self.host)
        config = answer.get("Config")
        if isinstance(config, dict):
            config.pop("Env", None)
        return answer

    def _get(self, path: str) -> Any:
        body = self._fetch(path)
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise EngineError("broken", "answer is not JSON", where=self.host + " " + path) from exc

    def _fetch(self, path: str) -> bytes:
        deadline = time.monotonic() + self._timeout_s
        connection = _UnixConnection(socket_path(self.host), self._timeout_s)
        try:
            connection.request("GET", path, headers={"Accept": "application/json", "Connection": "close"})
            sock = connection.sock
            answer = connection.getresponse()
            body = self._drain(answer, sock, deadline)
        except socket.timeout as exc:  # an alias of TimeoutError only from Python 3.10 on
            raise self._hangs(path) from exc
        except FileNotFoundError as exc:
            raise EngineError("absent", "no engine socket", where=self.host) from exc
        except PermissionError as exc:
            step = "run as root, or add the service's user to the group that owns the socket"
            raise EngineError("denied", "engine socket refuses us", where=self.host, cause="permission denied", next_step=step) from exc
        except ConnectionRefusedError as exc:
            raise EngineError("refused", "nothing listens on the engine socket", where=self.host) from exc
        except (OSError, http.client.HTTPException) as exc:
            raise EngineError("broken", "engine did not answer", where=self.host, cause=shown(str(exc) or type(exc).__name__)) from exc
        finally:
            connection.close()
        if answer.status == 404:
            raise EngineError("gone", "engine knows no such object", where=self.host + " " + path)
        if answer.status != 200:
            raise EngineError("broken", "engine answered %d" % answer.status, where=self.host + " " + path)
        return body

    def _drain(self, answer: http.client.HTTPResponse, sock: Any, deadline: float) -> bytes:
        """Return the body, at most the cap, before the deadline: a slow drip must not hold us."""
        body = bytearray()
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._hangs("(reading)")
            # http.client lets go of the socket with Connection: close; the file object of the answer keeps its timeout.
            if sock.fileno() >= 0:
                sock.settimeout(left)
            piece = answer.read1(_PIECE)
            if not piece:
                return bytes(body)
            body += piece
            if len(body) > self._cap_bytes:
                raise EngineError("broken", "answer of more than %d bytes" % self._cap_bytes, where=self.host)

    def _hangs(self, path: str) -> EngineError:
        return EngineError("hangs", "engine gave no answer in %g s" % self._timeout_s, where=self.host + " " + path)


def field(value: object, *keys: str) -> Optional[Any]:
    """Return value[k1][k2]… of parsed JSON, None as soon as a step is missing or not an object."""
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value
