# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The target's answers (contract R16), and that nothing of the machine's environment reaches it."""

from __future__ import annotations

import email.utils
import http.server
import json
import ssl
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import pytest

from clawmetry_sync import wire
from clawmetry_sync.errors import ConfigError
from clawmetry_sync.seal import Sealer
from clawmetry_sync.ship import Verdict, https
from clawmetry_sync.ship.https import HttpsTarget, judge_status, parse_retry_after

SEALER = Sealer(bytes(32))

TABLE = {
    Verdict.ACK: (200, 201, 202, 204),
    Verdict.RETRY: (100, 300, 301, 302, 303, 304, 307, 308, 408, 425, 429, 500, 502, 503, 504, 507, 520, 599, 999),
    Verdict.PAUSE: (401, 403),
    Verdict.SPLIT: (413,),
    Verdict.DEAD: (400, 402, 404, 405, 406, 409, 410, 415, 422, 451, 499),
}


@pytest.mark.parametrize("verdict, status", [(verdict, status) for verdict, statuses in TABLE.items() for status in statuses])
def test_r16_table(verdict: Verdict, status: int) -> None:
    outcome = judge_status(status)
    assert outcome.verdict is verdict
    assert verdict is Verdict.ACK or str(status) in outcome.reason


@pytest.mark.parametrize(
    "value, seconds",
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("99999999", https.MAX_RETRY_AFTER_S),
        ("9" * 5000, None),
        ("-5", None),
        ("1.5", None),
        ("\u00b2", None),
        ("soon", None),
        ("Mon, 01 Jan 0001 00:00:00 -0000", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", https.MAX_RETRY_AFTER_S),
    ],
)
def test_retry_after(value: Optional[str], seconds: Optional[float]) -> None:
    found = parse_retry_after(value)
    assert found == seconds or (value or "").startswith("Mon") and found in (None, 0.0)


def test_retry_after_as_a_date() -> None:
    found = parse_retry_after(email.utils.formatdate(time.time() + 100, usegmt=True))
    assert found is not None and 95 < found <= 100


@pytest.mark.parametrize("status", [429, 503, 401])
def test_retry_after_is_read_where_it_can_be_meant(status: int) -> None:
    assert judge_status(status, "30").retry_after_s == 30


class Server:
    """Answers every POST with what ``reply`` writes."""

    def __init__(self, reply: Callable[[Any], None]) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections: set[Any] = set()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                server.connections.add(self.client_address)
                reply(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = "http://127.0.0.1:%d" % self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def answer(handler: Any, body: bytes = b'{"ok":true}', status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[Any], None]], tuple[Server, HttpsTarget]]]:
    opened: list[Any] = []

    def start(reply: Callable[[Any], None]) -> tuple[Server, HttpsTarget]:
        server = Server(reply)
        target = HttpsTarget(server.url, "cm_key", SEALER.open)
        opened.extend((target, server))
        return server, target

    yield start
    for item in opened:
        item.close()


@pytest.mark.network
def test_one_connection_serves_many_requests(serve: Any) -> None:
    server, target = serve(answer)
    for number in range(5):
        outcome = target.deliver(wire.EVENTS, "node-1", "key-%d" % number, b"\0" * 40)
        assert outcome.verdict is Verdict.ACK and outcome.answer == {"ok": True}
    assert len(server.connections) == 1
    path, headers, body = server.requests[0]
    assert path == "/ingest/events" and json.loads(body) == {"node_id": "node-1", "encrypted": True, "blob": "A" * 54 + "=="}
    assert (headers["x-api-key"], headers["x-node-id"], headers["idempotency-key"]) == ("cm_key", "node-1", "key-0")
    assert "transfer-encoding" not in headers


@pytest.mark.network
def test_nothing_of_the_environment_is_trusted(serve: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server, target = serve(answer)
    assert target.heartbeat({"node_id": "n"}).verdict is Verdict.ACK
    assert not {"authorization", "proxy-authorization", "cookie"} & set(server.requests[0][1])


@pytest.mark.network
def test_redirect_is_not_followed(serve: Any) -> None:
    server, target = serve(lambda handler: answer(handler, status=302, Location="/elsewhere"))
    assert target.deliver(wire.EVENTS, "n", "k", b"\0" * 40).verdict is Verdict.RETRY
    assert [path for path, _headers, _body in server.requests] == ["/ingest/events"]


@pytest.mark.network
@pytest.mark.parametrize("body", [b"", b"not json", b"[1]", b"\xff", b"[" * 100_000, b'{"a":' + b"9" * 10_000 + b"}"])
def test_any_body_of_a_2xx_is_an_ack(serve: Any, body: bytes) -> None:
    _server, target = serve(lambda handler: answer(handler, body))
    outcome = target.deliver(wire.EVENTS, "n", "k", b"\0" * 40)
    assert outcome.verdict is Verdict.ACK and outcome.answer is None


@pytest.mark.network
def test_endless_answer_is_cut_off_and_the_connection_dropped(serve: Any) -> None:
    def endless(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(1 << 40))
        handler.end_headers()
        while True:
            handler.wfile.write(b" " * 65536)

    server, target = serve(endless)
    assert target.heartbeat({"node_id": "n"}).verdict is Verdict.ACK
    assert target.heartbeat({"node_id": "n"}).verdict is Verdict.ACK
    assert len(server.connections) == 2


@pytest.mark.network
def test_answer_that_never_ends_in_time_is_cut_off(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(https, "ANSWER_TIMEOUT_S", 0.5)
    monkeypatch.setattr(https, "CONNECT_TIMEOUT_S", 0.1)

    def trickle(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _byte in range(100):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.1)

    _server, target = serve(trickle)
    began = time.monotonic()
    target.heartbeat({"node_id": "n"})
    assert time.monotonic() - began < 3


@pytest.mark.network
@pytest.mark.parametrize("trouble", ["hang", "close", "garbage"])
def test_broken_connections_are_retried(serve: Any, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    monkeypatch.setattr(https, "ANSWER_TIMEOUT_S", 0.3)

    def reply(handler: Any) -> None:
        if trouble == "hang":
            time.sleep(1)
        if trouble == "garbage":
            handler.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        handler.close_connection = True

    _server, target = serve(reply)
    outcome = target.deliver(wire.EVENTS, "n", "k", b"\0" * 40)
    assert outcome.verdict is Verdict.RETRY and "cm_key" not in outcome.reason


@pytest.mark.network
def test_nobody_there_is_retried() -> None:
    target = HttpsTarget("http://127.0.0.1:1", "cm_key", SEALER.open)
    assert target.register("n", "h", "m").verdict is Verdict.RETRY


@pytest.mark.network
def test_session_rows_leave_in_the_clear_and_only_with_our_key(serve: Any) -> None:
    server, target = serve(answer)
    rows = wire.dumps({"node_id": "n", "sessions": [{"session_id": "s"}]})
    assert target.deliver(wire.SESSIONS, "n", "k", SEALER.seal(rows)).verdict is Verdict.ACK
    assert server.requests[0][2] == rows
    outcome = target.deliver(wire.SESSIONS, "n", "k", Sealer(b"1" * 32).seal(rows))
    assert outcome.verdict is Verdict.DEAD and len(server.requests) == 1


@pytest.mark.network
def test_a_sandboxs_proxy_that_denies_is_an_outage_and_not_a_refused_key(serve: Any) -> None:
    _server, target = serve(lambda handler: answer(handler, b'{"error":"policy_denied","detail":"no rule"}', 403))
    outcome = target.deliver(wire.EVENTS, "n", "k", SEALER.seal(b"{}"))
    assert outcome.verdict is Verdict.RETRY and "policy_denied" in outcome.reason and wire.EVENTS in outcome.reason
    _server, target = serve(lambda handler: answer(handler, b'{"error":"forbidden"}', 403))
    assert target.deliver(wire.EVENTS, "n", "k", SEALER.seal(b"{}")).verdict is Verdict.PAUSE


def test_tls_needs_a_known_authority_and_1_2(tmp_path: Path) -> None:
    context = https.tls_context(None)
    assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    (tmp_path / "bad.pem").write_text("not a certificate")
    for path in (tmp_path / "bad.pem", tmp_path / "absent.pem"):
        with pytest.raises(ConfigError, match="ca_file"):
            https.tls_context(str(path))
