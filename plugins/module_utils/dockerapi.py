# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Docker Engine API over a unix socket: a few GET and HEAD requests, nothing else.

Every request has a deadline and a size cap; an answer is JSON that is checked before use.
Never POSTs, never PUTs, never keeps a container's environment (Config.Env may hold secrets).
Podman's compatible socket answers the same requests. Source: Engine API v1.41 and later.
"""

from __future__ import annotations

import base64
import calendar
import contextlib
import http.client
import json
import re
import socket
import time
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Mapping, Optional
from urllib.parse import quote

from .errors import Unreadable, shown

DEFAULT_HOST = "unix:///var/run/docker.sock"
DEFAULT_TIMEOUT_S = 5.0
DEFAULT_CAP_BYTES = 32 * 1024 * 1024
CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|([+-])(\d\d):(\d\d))")
PIECE = 64 * 1024
# Go's os.FileMode, in which an engine tells what a path is; no bit of the mask is a regular file.
_GO_DIR = 1 << 31
_GO_KINDS = 1 << 31 | 1 << 27 | 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21 | 1 << 19
_STAT_HEADER = "X-Docker-Container-Path-Stat"


@dataclass(frozen=True)
class PathStat:
    """What lstat of a path in a container says, as far as an engine passes it on: no inode, no owner."""

    kind: str  # file | dir | other
    size: int
    mtime_ns: int


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

    def __init__(
        self,
        host: str = DEFAULT_HOST,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        cap_bytes: int = DEFAULT_CAP_BYTES,
        ends_at: float = float("inf"),  # on the monotonic clock; after that nothing is asked
    ) -> None:
        self.host = host
        self.ends_at = ends_at
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
        if not CONTAINER_ID.fullmatch(container_id):
            raise EngineError("broken", "not a container id", where=shown(container_id))
        answer = self._get("/containers/%s/json" % container_id)
        if not isinstance(answer, dict):
            raise EngineError("broken", "not a container", where=self.host)
        config = answer.get("Config")
        if isinstance(config, dict):
            config.pop("Env", None)
        return answer

    def path_stat(self, container_id: str, path: bytes) -> Optional[PathStat]:
        """Return what PATH of a container is, running or not; a link itself is "other". None when it is absent. Raises EngineError."""
        target = _archive_target(container_id, path)
        with self._answered("HEAD", target, self._timeout_s) as (answer, _read):
            if answer.status == 404:
                return None
            self._check_status(answer, target)
            found = parse_path_stat(answer.headers.get(_STAT_HEADER, ""))
        if found is None:
            raise EngineError("broken", "no usable stat of a path", where=self.host)
        return found

    @contextlib.contextmanager
    def archive(self, container_id: str, path: bytes, *, timeout_s: float) -> Iterator[Callable[[int], bytes]]:
        """Ask for the tar stream of PATH; yield a function that returns at most n bytes of it, b"" at its end.

        Raises EngineError, kind "gone" when container or path is not there, "hangs" when TIMEOUT_S is over.
        """
        target = _archive_target(container_id, path)
        with self._answered("GET", target, timeout_s) as (answer, read):
            self._check_status(answer, target)
            yield read

    def _get(self, path: str) -> Any:
        body = self._fetch(path)
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise EngineError("broken", "answer is not JSON", where=self.host + " " + path) from exc

    def _fetch(self, path: str) -> bytes:
        with self._answered("GET", path, self._timeout_s) as (answer, read):
            body = bytearray()
            while True:
                piece = read(PIECE)
                if not piece:
                    break
                body += piece
                if len(body) > self._cap_bytes:
                    raise EngineError("broken", "answer of more than %d bytes" % self._cap_bytes, where=self.host)
            self._check_status(answer, path)
        return bytes(body)

    def _check_status(self, answer: http.client.HTTPResponse, path: str, wanted: int = 200) -> None:
        if answer.status == 404:
            raise EngineError("gone", "engine knows no such object", where=self.host + " " + path)
        if answer.status != wanted:
            raise EngineError("broken", "engine answered %d" % answer.status, where=self.host + " " + path)

    @contextlib.contextmanager
    def _answered(
        self, method: str, path: str, timeout_s: float, body: Optional[Mapping[str, Any]] = None
    ) -> Iterator[tuple[http.client.HTTPResponse, Callable[[int], bytes]]]:
        """Send one request; yield its answer and a reader of the body, both under one deadline: a slow drip must not hold us."""
        timeout_s = min(timeout_s, self.ends_at - time.monotonic())
        if timeout_s <= 0:
            raise EngineError("hangs", "the time given is over", where=self.host + " " + path)
        deadline = time.monotonic() + timeout_s
        connection = _UnixConnection(socket_path(self.host), min(timeout_s, self._timeout_s))
        try:
            headers = {"Accept": "*/*", "Connection": "close"}
            if body is not None:
                headers["Content-Type"] = "application/json"
            connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
            sock = connection.sock
            answer = connection.getresponse()

            def read(limit: int) -> bytes:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self._hangs(path, timeout_s)
                # http.client lets go of the socket with Connection: close; the file object of the answer keeps its timeout.
                if sock.fileno() >= 0:
                    sock.settimeout(min(left, self._timeout_s))
                return answer.read1(limit)

            yield answer, read
        except socket.timeout as exc:  # an alias of TimeoutError only from Python 3.10 on
            raise self._hangs(path, timeout_s) from exc
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

    def _hangs(self, path: str, timeout_s: float) -> EngineError:
        return EngineError("hangs", "engine gave no answer in %g s" % timeout_s, where=self.host + " " + path)


def _archive_target(container_id: str, path: bytes) -> str:
    if not CONTAINER_ID.fullmatch(container_id):
        raise EngineError("broken", "not a container id", where=shown(container_id))
    return "/containers/%s/archive?path=%s" % (container_id, quote(b"/" + path, safe="/"))


def _rfc3339_ns(stamp: str) -> int:
    """Return nanoseconds since 1970 of ``2026-11-21T22:11:36.455799523+01:00``; 0 for what is before. Raises ValueError, TypeError."""
    match = _STAMP.fullmatch(stamp)
    if match is None:
        raise ValueError("not a time")
    seconds = calendar.timegm(time.strptime(match.group(1), "%Y-%m-%dT%H:%M:%S"))
    if match.group(4):
        seconds -= int(match.group(4) + "1") * (int(match.group(5)) * 3600 + int(match.group(6)) * 60)
    return max(0, seconds * 10**9 + int((match.group(2) or "").ljust(9, "0")))


def parse_path_stat(header: str) -> Optional[PathStat]:
    """Return what the header says, None when it says nothing usable. Sample, decoded from base64:

    ``{"name":"x.jsonl","size":25,"mode":420,"mtime":"2026-11-21T21:11:36.455799523Z","linkTarget":""}``
    """
    try:
        stated = json.loads(base64.b64decode(header, validate=True))
        mode, size, stamp = stated["mode"], stated["size"], stated["mtime"]
        mtime_ns = _rfc3339_ns(stamp)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(mode, int) or not isinstance(size, int) or size < 0 or isinstance(mode, bool) or isinstance(size, bool):
        return None
    kind = "file" if not mode & _GO_KINDS else "dir" if mode & _GO_KINDS == _GO_DIR else "other"
    return PathStat(kind, size, mtime_ns)


def field(value: object, *keys: str) -> Optional[Any]:
    """Return value[k1][k2]… of parsed JSON, None as soon as a step is missing or not an object."""
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value
