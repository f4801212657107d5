# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way to the ingest, over real sockets on loopback: whose words an answer is, and what cures it."""

from __future__ import annotations

import email.utils
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Mapping, Optional

import pytest

from clawmetry_sync.doctor import Check, network
from clawmetry_sync.egress.rule import PATHS
from clawmetry_sync.ship.probe import Answer
from support.ground import NOW, ground, host, status
from support.ingest import API_KEY, Fault, Ingest
from support.tls import make_certificates

pytestmark = pytest.mark.network

Reply = tuple[int, Mapping[str, str], bytes]
DENIED: Reply = (403, {"Content-Type": "application/json"}, b'{"error":"policy_denied","detail":"no rule for POST"}')
DATE = email.utils.formatdate(NOW, usegmt=True)


class Server(http.server.ThreadingHTTPServer):
    """An HTTP server, or a proxy, that answers what REPLY says for (method, target); None of it: a tunnel is opened."""

    daemon_threads = True

    def __init__(self, reply: Callable[[str, str], Optional[Reply]]) -> None:
        self.reply, self.asked = reply, []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return "http://127.0.0.1:%d" % self.server_address[1]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def date_time_string(self, timestamp: Optional[float] = None) -> str:
        return DATE

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.asked.append((self.command, self.path, dict(self.headers.items()), body))
        status, headers, data = self.server.reply(self.command, self.path) or (401, {}, b'{"error":"missing api key"}')
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_CONNECT(self) -> None:
        if self.server.reply(self.command, self.path) is not None:
            return self.do_POST()
        self.server.asked.append((self.command, self.path, dict(self.headers.items()), b""))
        name, _colon, port = self.path.rpartition(":")
        with socket.create_connection((name, int(port))) as there:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=self._pump, args=(there, self.connection), daemon=True)
            back.start()
            self._pump(self.connection, there)
            back.join(2)
        return None

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while True:
                data = source.recv(65536)
                if not data:
                    break
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@contextmanager
def serving(reply: Callable[[str, str], Optional[Reply]]) -> Iterator[Server]:
    with Server(reply) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def always(reply: Optional[Reply]) -> Callable[[str, str], Optional[Reply]]:
    return lambda _method, _target: reply


def examined(tmp_path: Path, url: str, *, inside: bool = False, **options: Any) -> list[Check]:
    config = {"ingest_url": url, **options.pop("config", {})}
    return network.ingest(ground(tmp_path, config=config, where=host(in_sandbox=inside), **options))


def test_ingest_that_refuses_a_question_without_a_key_is_reached(tmp_path: Path) -> None:
    with serving(always(None)) as server:
        checks = examined(tmp_path, server.url)
        assert [(check.name, check.level) for check in checks] == [("ingest", "ok"), ("clock skew", "ok")]
        ((_method, path, headers, body),) = server.asked
        assert (path, body) == ("/ingest/heartbeat", b"{}") and not {"X-Api-Key", "x-api-key"} & set(headers)


def test_policy_denied_is_recognised_with_the_paths_and_the_rule(tmp_path: Path) -> None:
    def reply(_method: str, target: str) -> Optional[Reply]:
        return DENIED if target in ("/ingest/memory", "/ingest/events") else None

    with serving(reply) as server:
        (check, skew) = examined(tmp_path, server.url, inside=True)
        assert sorted(entry[1] for entry in server.asked) == sorted(PATHS)
    assert check.level == "fail" and skew.name == "clock skew"
    assert "denies POST on /ingest/events, /ingest/memory" in check.seen
    assert "no rule for POST" in check.seen and "policy_denied" in check.seen
    assert "policy-add" in check.next_step


def test_policy_denied_for_the_tunnel_needs_no_path(tmp_path: Path) -> None:
    with serving(always(DENIED)) as proxy:
        config = {"proxy": proxy.url}
        (check,) = examined(tmp_path, "https://ingest.example.com", inside=True, config=config)
        assert [(entry[0], entry[1]) for entry in proxy.asked] == [("CONNECT", "ingest.example.com:443")]
    assert check.level == "fail" and "lets nothing through" in check.seen and "policy_denied" in check.seen
    assert "host: ingest.example.com" in check.snippet and "enforcement: enforce" in check.snippet


def test_refusal_of_the_ingest_itself_is_no_policy(tmp_path: Path) -> None:
    with serving(always((403, {}, b'{"error":"forbidden"}'))) as server:
        assert examined(tmp_path, server.url, inside=True)[0].level == "ok"


@pytest.mark.parametrize(
    "reply, level, seen",
    [
        ((302, {"Location": "http://login.example/?\x1b[1m"}, b""), "fail", "captive portal"),
        ((200, {"Content-Type": "text/html"}, b"<html>please log in</html>"), "fail", "captive portal"),
        ((511, {}, b""), "fail", "captive portal"),
        ((407, {"Proxy-Authenticate": 'Basic realm="x"'}, b""), "fail", "name and a password"),
        ((404, {}, b""), "warn", "HTTP 404"),
        ((503, {}, b"busy \x1b[1m"), "warn", "busy"),
        ((400, {}, b""), "ok", "HTTP 400"),
    ],
)
def test_other_answers(tmp_path: Path, reply: Reply, level: str, seen: str) -> None:
    with serving(always(reply)) as server:
        check = examined(tmp_path, server.url)[0]
    assert check.level == level and seen in check.seen and "\x1b" not in check.seen
    assert level == "ok" or check.next_step


def test_proxy_that_wants_a_password_gets_the_one_that_is_set(tmp_path: Path) -> None:
    with serving(always((407, {"Proxy-Authenticate": "Basic"}, b""))) as proxy:
        config = {"proxy": proxy.url.replace("//", "//me:canary%21@")}
        (check,) = examined(tmp_path, "https://ingest.example.com", config=config)
        assert proxy.asked[0][2]["Proxy-Authorization"] == "Basic bWU6Y2FuYXJ5IQ=="
    assert "407" in check.seen and "canary" not in check.seen + check.next_step


def test_tls_through_a_proxy_and_the_wrong_authority(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    with Ingest(certificates=certificates) as ingest, serving(always(None)) as proxy:
        config = {"proxy": proxy.url, "ca_file": str(certificates.ca)}
        check = examined(tmp_path, ingest.url, config=config)[0]
        assert check.level == "ok" and "TLSv1." in check.seen and ingest.questions == len(PATHS)
        ingest.check()
        (check,) = examined(tmp_path, ingest.url, inside=True)
        assert check.level == "fail" and "certificate" in check.seen and "ca-bundle.pem" in check.next_step


def test_nobody_there_no_name_and_no_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as idle:
        port = idle.getsockname()[1]
    (check,) = examined(tmp_path, "http://127.0.0.1:%d" % port)
    assert check.level == "fail" and "no connection to the ingest" in check.seen

    def no_name(*_arguments: Any, **_options: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", no_name)
        (check,) = examined(tmp_path, "https://ingest.example.com")
    assert check.seen == "DNS: ingest.example.com:443: Name or service not known" and "getent" in check.next_step

    with socket.create_server(("127.0.0.1", 0)) as server:

        def babble() -> None:
            connection, _peer = server.accept()
            connection.recv(65536)
            connection.sendall(b"SSH-2.0-x\r\n\r\n")
            connection.close()

        threading.Thread(target=babble, daemon=True).start()
        (check,) = examined(tmp_path, "http://127.0.0.1:%d" % server.getsockname()[1])
    assert check.level == "fail" and "no HTTP" in check.seen


@pytest.mark.parametrize("seconds, level, word", [(299, "ok", ""), (301, "warn", "ahead of"), (-4000, "warn", "behind")])
def test_clock_skew_against_the_date_of_the_answer(tmp_path: Path, seconds: int, level: str, word: str) -> None:
    one = ground(tmp_path)
    one.clock = lambda: NOW + seconds
    (check,) = network.skew(one, Answer("answered", "x", status=401, headers={"date": DATE}))
    assert check.level == level and word in check.seen
    assert network.skew(one, Answer("answered", "x", headers={"date": "yesterday"})) == []


def test_deep_tries_the_key(tmp_path: Path) -> None:
    env = {"CLAWMETRY_API_KEY": API_KEY}
    with Ingest() as ingest:
        checks = examined(tmp_path, ingest.url, env=env, deep=True, running=status())
        assert checks[-1].name == "api key accepted" and checks[-1].level == "ok"
        assert ingest.heartbeats[-1]["node_id"] == "build-07"
        ingest.policy = lambda request: Fault(status=401, body={"error": "unknown key"}) if "x-api-key" in request.headers else None
        checks = examined(tmp_path, ingest.url, env={"CLAWMETRY_API_KEY": "cm_canary"}, deep=True, running=status())
        assert checks[-1].level == "fail" and "canary" not in json.dumps([check.seen for check in checks])


def test_archive_asks_nobody(tmp_path: Path) -> None:
    (check,) = network.ingest(ground(tmp_path))
    assert check.level == "ok" and "archive" in check.seen
