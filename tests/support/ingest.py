# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A strict ingest on loopback: opens every blob, checks every shape, records every event, misbehaves on request.

Whatever a real ingest might forgive is a violation here; ``check()`` fails a test that caused one.
A fault is asked for by ``script`` (the next requests of an endpoint) or ``policy`` (a function of the request).

As a program it serves until it is killed and appends what it saw to a JSON-lines file:

    python -m support.ingest --key-file K --api-key-file A --log seen.jsonl [--certificates DIR]
"""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import gzip
import hashlib
import http.server
import json
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, Optional

from support.decoder import decode_key, open_bytes, seal_blob

API_KEY = "cm_test_0123456789abcdef"
KEY_TEXT = base64.urlsafe_b64encode(hashlib.sha256(b"a key of the tests").digest()).decode()

AUTH, HEARTBEAT = "/auth", "/ingest/heartbeat"
EVENTS, SESSIONS, MEMORY, SNAPSHOT = "/ingest/events", "/ingest/sessions", "/ingest/memory", "/ingest/system-snapshot"
SEALED = (EVENTS, MEMORY, SNAPSHOT)
ENDPOINTS = (AUTH, HEARTBEAT, SESSIONS) + SEALED

MAX_EVENTS, MAX_ROWS, MAX_CONTENT = 200, 50, 100_000
SESSION_FILE = re.compile(r"[^/\x00]+\.jsonl\Z")


@dataclass(frozen=True)
class Fault:
    """What happens instead of a 200.

    ``record`` keeps the payload although the answer is a fault or is lost: a 2xx the client never saw.
    ``drop`` closes the connection: "before" the body is read, or "after" it without an answer.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    delay_s: float = 0.0
    drop: str = ""
    record: bool = False


@dataclass(frozen=True)
class Source:
    """Where a batch says it comes from."""

    name: Optional[str]
    type: Optional[str]
    agent: Optional[str]


@dataclass
class Request:
    """One request as it arrived, and what became of it. ``plain`` is None when nothing was sealed."""

    endpoint: str
    headers: dict[str, str]
    body: bytes
    at: float
    plain: Optional[Any] = None
    status: int = 0

    @property
    def idempotency_key(self) -> Optional[str]:
        return self.headers.get("idempotency-key")


def canonical(event: Any) -> str:
    """Two JSON values are the same event when this text is the same."""
    return json.dumps(event, sort_keys=True, separators=(",", ":"))


def digest(event: Any) -> str:
    """As ``canonical``, in constant memory."""
    return hashlib.sha256(canonical(event).encode()).hexdigest()


Log = Callable[[Mapping[str, Any]], None]
Policy = Callable[[Request], Optional[Fault]]


class Ingest:
    """Start with ``with Ingest() as ingest``; ``ingest.url`` is the base URL.

    ``events[source, session_file]`` holds, in order of arrival, ``record(event)`` of every event of every
    accepted batch whose idempotency key is new; ``duplicate_batches`` and ``duplicate_events`` count the rest.
    """

    def __init__(
        self,
        *,
        key: str = KEY_TEXT,
        api_key: str = API_KEY,
        host: str = "127.0.0.1",
        port: int = 0,
        certificates: Optional[Any] = None,
        record: Callable[[Any], str] = canonical,
        keep_bodies: bool = True,
        log: Optional[Log] = None,
    ) -> None:
        self.key, self.api_key, self.host, self.port = decode_key(key), api_key, host, port
        self.certificates, self.record, self.keep_bodies, self.log = certificates, record, keep_bodies, log
        self.caps: dict[str, Any] = {}
        self.sync_allowed = True
        self.node_id: Optional[str] = None  # what /auth answers; None: what the client asked for
        self.canaries: list[bytes] = [key.encode()]  # bytes that may appear nowhere, sealed or not
        self.events: dict[tuple[Source, str], list[str]] = collections.defaultdict(list)
        self.sessions: dict[str, dict[str, Any]] = {}
        self.memory: list[dict[str, Any]] = []
        self.snapshots: list[dict[str, Any]] = []
        self.heartbeats: list[dict[str, Any]] = []
        self.requests: list[Request] = []
        self.violations: list[str] = []
        self.questions = 0  # empty objects without a key, answered with 401
        self.duplicate_batches = 0
        self.duplicate_events = 0
        self.bytes_received = 0
        self.policy: Optional[Policy] = None
        self._scripts: dict[str, collections.deque[Fault]] = collections.defaultdict(collections.deque)
        self._nonces: dict[bytes, str] = {}
        self._plain_by_key: dict[str, str] = {}
        self._accepted: set[str] = set()
        self._seen: set[tuple[Source, str, str]] = set()
        self._caps_said = False
        self._lock = threading.Condition()
        self._server: Optional[http.server.ThreadingHTTPServer] = None

    # -- life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Ingest:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen. After ``stop`` the same port is taken again, so an outage ends where it began."""
        ingest = self

        class Handler(_Handler):
            owner = ingest

        server = _Server((self.host, self.port), Handler)
        self.port = int(server.server_address[1])
        if self.certificates is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(self.certificates.certificate, self.certificates.key)
            # The handshake happens in the connection's own thread, at its first read.
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections and cut the open ones."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.cut()
            self._server = None

    @property
    def listening(self) -> bool:
        return self._server is not None

    @property
    def url(self) -> str:
        return "%s://%s:%d" % ("https" if self.certificates else "http", self.host, self.port)

    # -- what a test asks for -----------------------------------------------------------------------------------------

    def script(self, endpoint: str, *faults: Fault) -> None:
        """The next requests to ENDPOINT get FAULTS, one each; then it behaves again."""
        with self._lock:
            self._scripts[endpoint].extend(faults)

    def all_events(self) -> list[str]:
        with self._lock:
            return [event for events in self.events.values() for event in events]

    def count(self, endpoint: str) -> int:
        with self._lock:
            return sum(1 for request in self.requests if request.endpoint == endpoint)

    def wait(self, condition: Callable[[Ingest], bool], timeout_s: float = 30.0, what: str = "condition") -> None:
        """Return when CONDITION(self) holds, looked at after each request. Raises AssertionError after TIMEOUT_S."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            while not condition(self):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError("no %s within %g s; %s" % (what, timeout_s, self.summary()))
                self._lock.wait(min(left, 0.5))

    def wait_events(self, number: int, timeout_s: float = 30.0) -> None:
        """Return when NUMBER different events have arrived in all."""
        self.wait(lambda me: len(me._seen) >= number, timeout_s, "%d events" % number)

    def summary(self) -> str:
        """What arrived, for the message of a failed test."""
        endpoints = collections.Counter("%s=%d" % (request.endpoint, request.status) for request in self.requests)
        return "%d events (%d again), requests %s, violations %s" % (
            len(self._seen),
            self.duplicate_events,
            dict(endpoints),
            self.violations[:5],
        )

    def check(self) -> None:
        """Raise AssertionError when anything sent was not exactly as it must be."""
        with self._lock:
            if self.violations:
                raise AssertionError("%d violations:\n%s" % (len(self.violations), "\n".join(self.violations[:20])))

    # -- what a request goes through ----------------------------------------------------------------------------------

    def scripted(self, request: Request) -> Optional[Fault]:
        with self._lock:
            script = self._scripts[request.endpoint]
            return script.popleft() if script else None

    def judged(self, request: Request) -> Fault:
        """What ``policy`` says of a request whose body has been read."""
        return (self.policy(request) if self.policy else None) or Fault()

    def violation(self, request: Request, text: str) -> None:
        self.violations.append("%s: %s" % (request.endpoint, text))
        if self.log:
            self.log({"violation": self.violations[-1]})

    def take(self, request: Request, fault: Fault) -> Mapping[str, Any]:
        """Check and (when the fault lets it) keep one request. Return the body to answer with."""
        with self._lock:
            self.bytes_received += len(request.body)
            body = self._check_request(request)
            accepted = fault.record or (200 <= fault.status < 300 and not fault.drop)
            if body is not None:
                keep = {
                    AUTH: self._auth,
                    HEARTBEAT: self._heartbeat,
                    EVENTS: self._events,
                    SESSIONS: self._sessions,
                    MEMORY: self._memory,
                    SNAPSHOT: self._snapshot,
                }[request.endpoint]
                keep(request, body, accepted)
            request.status = fault.status
            if not self.keep_bodies:
                request.body, request.plain = b"", None
            self.requests.append(request)
            self._lock.notify_all()
            answer: dict[str, Any] = {"ok": True, "sync_allowed": self.sync_allowed}
            if self.caps:
                answer["caps"] = dict(self.caps)
                self._caps_said = self._caps_said or bool(self.caps.get("blob_gzip"))
            if request.endpoint == AUTH and body is not None:
                answer["node_id"] = self.node_id or body.get("existing_node_id") or body.get("hostname")
            answer.update(fault.body)
            return answer

    def _check_request(self, request: Request) -> Optional[dict[str, Any]]:
        headers = request.headers
        for canary in self.canaries:
            if canary in request.body or any(canary in value.encode() for value in headers.values()):
                self.violation(request, "a canary is in the request")
        if headers.get("x-api-key") != self.api_key:
            self.violation(request, "X-Api-Key is missing or wrong")
        if headers.get("content-type", "").split(";")[0] != "application/json":
            self.violation(request, "Content-Type is %r" % headers.get("content-type"))
        for name in ("authorization", "cookie", "transfer-encoding", "content-encoding", "proxy-authorization"):
            if name in headers:
                self.violation(request, "unexpected header %s" % name)
        try:
            body = json.loads(request.body)
        except ValueError as exc:
            self.violation(request, "the body is not JSON: %s" % exc)
            return None
        if not isinstance(body, dict):
            self.violation(request, "the body is not an object")
            return None
        if request.endpoint != AUTH and (not body.get("node_id") or headers.get("x-node-id") != body.get("node_id")):
            self.violation(request, "X-Node-Id %r, body %r" % (headers.get("x-node-id"), body.get("node_id")))
        if request.endpoint in SEALED:
            return self._open(request, body)
        return body

    def _open(self, request: Request, body: dict[str, Any]) -> Optional[dict[str, Any]]:
        if set(body) != {"node_id", "encrypted", "blob"} or body["encrypted"] is not True:
            self.violation(request, "the envelope has %s" % sorted(body))
            return None
        blob = body["blob"]
        if not isinstance(blob, str) or len(blob) % 4 or not re.fullmatch(r"[A-Za-z0-9_-]+={0,2}", blob):
            self.violation(request, "the blob is not padded base64url")
            return None
        nonce = base64.urlsafe_b64decode(blob[:16])
        blob_hash = hashlib.sha256(blob.encode()).hexdigest()
        if self._nonces.setdefault(nonce, blob_hash) != blob_hash:
            self.violation(request, "a nonce was used for two blobs")
        try:
            plain = open_bytes(blob, self.key)
        except Exception as exc:
            self.violation(request, "the blob does not open: %r" % exc)
            return None
        if plain[:2] == b"\x1f\x8b":
            if not self._caps_said:
                self.violation(request, "compressed, but no answer offered blob_gzip")
            plain = gzip.decompress(plain)
        for canary in self.canaries:
            if canary in plain:
                self.violation(request, "a canary is in the sealed payload")
        key = request.idempotency_key
        if not key:
            self.violation(request, "no Idempotency-Key")
        elif self._plain_by_key.setdefault(key, hashlib.sha256(plain).hexdigest()) != hashlib.sha256(plain).hexdigest():
            self.violation(request, "one Idempotency-Key for two payloads")
        try:
            value = json.loads(plain)
        except (ValueError, RecursionError) as exc:
            self.violation(request, "the payload is not JSON: %s" % exc)
            return None
        if not isinstance(value, dict):
            self.violation(request, "the payload is not an object")
            return None
        if request.endpoint != SNAPSHOT and value.get("node_id") != body["node_id"]:
            self.violation(request, "the payload's node_id differs from the envelope's")
        request.plain = value
        return value

    def _auth(self, request: Request, body: dict[str, Any], accepted: bool) -> None:
        unknown = set(body) - {"api_key", "hostname", "existing_node_id", "machine_id"}
        if unknown or body.get("api_key") != self.api_key or "machine_id" not in body:
            self.violation(request, "the body has %s" % sorted(body))

    def _heartbeat(self, request: Request, body: dict[str, Any], accepted: bool) -> None:
        if not body.get("ts") or not body.get("version") or body.get("e2e") is not True:
            self.violation(request, "ts, version or e2e is missing: %s" % sorted(body))
        if accepted:
            self.heartbeats.append(body)

    def _first_time(self, request: Request, accepted: bool) -> bool:
        if not accepted:
            return False
        key = request.idempotency_key or repr(request.at)
        if key in self._accepted:
            self.duplicate_batches += 1
            return False
        self._accepted.add(key)
        return True

    def _events(self, request: Request, plain: dict[str, Any], accepted: bool) -> None:
        source, events, name = plain.get("source"), plain.get("events"), plain.get("session_file")
        unknown = set(plain) - {"session_file", "node_id", "events", "subagent_id", "source"}
        if unknown:
            self.violation(request, "unknown keys %s" % sorted(unknown))
        if not isinstance(name, str) or not SESSION_FILE.match(name):
            self.violation(request, "session_file is %r" % (name,))
            return
        if not isinstance(events, list) or not 1 <= len(events) <= MAX_EVENTS:
            self.violation(request, "events is not a list of 1 to %d" % MAX_EVENTS)
            return
        if not all(isinstance(event, dict) for event in events):
            self.violation(request, "an event is not an object")
            return
        if not isinstance(source, dict) or not {"sandbox.name", "sandbox.type", "agent"} <= set(source):
            self.violation(request, "source is %r" % (source,))
            return
        if "subagent_id" in plain and not isinstance(plain["subagent_id"], str):
            self.violation(request, "subagent_id is not a string")
        if not accepted:
            return
        where = Source(source["sandbox.name"], source["sandbox.type"], source["agent"])
        texts = [self.record(event) for event in events]
        again = sum(1 for text in texts if (where, name, text) in self._seen)
        self.duplicate_events += again
        self._seen.update((where, name, text) for text in texts)
        if self._first_time(request, accepted):
            self.events[where, name].extend(texts)
        if self.log:
            self.log({"source": source, "session_file": name, "events": events, "again": again})

    def _sessions(self, request: Request, body: dict[str, Any], accepted: bool) -> None:
        rows = body.get("sessions")
        if set(body) != {"node_id", "sessions"} or not isinstance(rows, list) or not 1 <= len(rows) <= MAX_ROWS:
            self.violation(request, "not {node_id, sessions: 1 to %d rows}" % MAX_ROWS)
            return
        for row in rows:
            if not isinstance(row, dict) or not row.get("session_id"):
                self.violation(request, "a row without session_id")
                continue
            title = row.get("display_name_blob")
            if title is not None:
                try:
                    if b'"display_name"' not in open_bytes(title, self.key):
                        self.violation(request, "display_name_blob holds no display_name")
                except Exception as exc:
                    self.violation(request, "display_name_blob does not open: %r" % exc)
            if accepted:
                self.sessions[row["session_id"]] = row

    def _memory(self, request: Request, plain: dict[str, Any], accepted: bool) -> None:
        state, content = plain.get("memory_state"), plain.get("memory_content")
        if not isinstance(state, dict) or not isinstance(state.get("files"), list) or not isinstance(content, list):
            self.violation(request, "no memory_state.files or memory_content")
            return
        for entry in content:
            if set(entry) != {"path", "content"} or len(entry["content"]) > MAX_CONTENT:
                self.violation(request, "a memory_content entry has %s" % sorted(entry))
        for entry in state["files"]:
            if not {"name", "size", "modified"} <= set(entry):
                self.violation(request, "a memory_state file has %s" % sorted(entry))
        if self._first_time(request, accepted):
            self.memory.append(plain)

    def _snapshot(self, request: Request, plain: dict[str, Any], accepted: bool) -> None:
        if self._first_time(request, accepted):
            self.snapshots.append(plain)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._connections: set[socket.socket] = set()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or was killed, is what these tests are about: no traceback."""

    def cut(self) -> None:
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: Ingest
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        request = Request(self.path, {name.lower(): value for name, value in self.headers.items()}, b"", time.monotonic())
        if self.path not in ENDPOINTS or not request.headers.get("content-length", "").isdigit():
            self.owner.violation(request, "no such endpoint, or no Content-Length")
            return self._answer(404, {}, {})
        fault = self.owner.scripted(request)
        if fault is not None and fault.drop == "before":
            self.close_connection = True
            return None
        length = int(request.headers["content-length"])
        request.body = self.rfile.read(length)
        if len(request.body) != length:
            self.close_connection = True  # the client died in the middle: it never sent this
            return None
        fault = fault or self.owner.judged(request)
        if fault.drop == "before":
            self.close_connection = True
            return None
        if "x-api-key" not in request.headers and request.body == b"{}":
            # The doctor's question whether the way is open; nothing of a node is in it.
            self.owner.questions += 1
            return self._answer(401 if fault.status == 200 else fault.status, fault.headers, fault.body or {"error": "no API key"})
        answer = self.owner.take(request, fault)
        if fault.delay_s:
            time.sleep(fault.delay_s)
        if fault.drop:
            self.close_connection = True
            return None
        return self._answer(fault.status, fault.headers, answer)

    def do_GET(self) -> None:
        self.owner.violation(Request(self.path, {}, b"", 0.0), "unexpected %s" % self.command)
        self._answer(405, {}, {})

    do_PUT = do_DELETE = do_HEAD = do_GET

    def _answer(self, status: int, headers: Mapping[str, str], body: Mapping[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def self_test() -> None:
    """Send one good batch to ourselves; a test bed that cannot say yes must not be trusted to say no."""
    import urllib.request

    with Ingest() as ingest:
        plain = {
            "session_file": "a.jsonl",
            "node_id": "n",
            "events": [{"id": 1}],
            "source": {"sandbox.name": "s", "sandbox.type": "docker", "agent": "main"},
        }
        body = json.dumps({"node_id": "n", "encrypted": True, "blob": seal_blob(plain, ingest.key)}).encode()
        headers = {"X-Api-Key": API_KEY, "X-Node-Id": "n", "Content-Type": "application/json", "Idempotency-Key": "k"}
        urllib.request.urlopen(urllib.request.Request(ingest.url + EVENTS, body, headers), timeout=10).close()
        ingest.check()
        ingest.wait_events(1)


def main() -> None:
    parser = argparse.ArgumentParser(description="strict ingest of the tests")
    parser.add_argument("--key-file", type=Path, required=True)
    parser.add_argument("--api-key-file", type=Path, required=True)
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--log", type=Path, required=True, help="JSON lines: every batch and every violation")
    parser.add_argument("--certificates", type=Path, help="speak TLS; ca.pem and the rest are made in this directory")
    parser.add_argument("--url-file", type=Path, help="where to write the URL once it listens")
    arguments = parser.parse_args()
    host, port = arguments.listen.rsplit(":", 1)
    certificates = None
    if arguments.certificates:
        from support.tls import make_certificates

        certificates = make_certificates(arguments.certificates, [host])
    with open(arguments.log, "a", buffering=1, encoding="utf-8") as log:
        ingest = Ingest(
            key=arguments.key_file.read_text().strip(),
            api_key=arguments.api_key_file.read_text().strip(),
            host=host,
            port=int(port),
            certificates=certificates,
            keep_bodies=False,
            log=lambda entry: print(json.dumps(entry), file=log),
        )
        with ingest:
            if arguments.url_file:
                arguments.url_file.write_text(ingest.url)
            threading.Event().wait()


if __name__ == "__main__":
    main()
