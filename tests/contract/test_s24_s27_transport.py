# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""S24 to S27: the ingest is who it says it is, nobody leads us elsewhere, nothing in the environment counts, answers are bounded."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from clawmetry_sync import wire
from clawmetry_sync.config import check_url
from clawmetry_sync.errors import ConfigError
from clawmetry_sync.ship import Outcome, Verdict, https
from clawmetry_sync.ship.https import HttpsTarget
from support.ingest import API_KEY, EVENTS, Fault, Ingest
from support.node import Node
from support.tls import Certificates, make_certificates


class Raw:
    """A server that answers what it is told, byte for byte, and keeps what it was asked."""

    def __init__(self, answer: Callable[[Any], None], context: Optional[ssl.SSLContext] = None) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._answer, self._context = answer, context
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _peer = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(20)
            stream = self._context.wrap_socket(connection, server_side=True) if self._context else connection
            while True:
                data = b""
                while b"\r\n\r\n" not in data:
                    piece = stream.recv(65536)
                    if not piece:
                        return
                    data += piece
                head, _blank, body = data.partition(b"\r\n\r\n")
                length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
                while len(body) < length:
                    body += stream.recv(65536)
                self.requests.append(head + b"\r\n\r\n" + body)
                self._answer(stream)


def said(text: bytes) -> Callable[[Any], None]:
    return lambda stream: stream.sendall(text)


OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"ok":true}'


@contextlib.contextmanager
def target_of(url: str, **options: Any) -> Iterator[HttpsTarget]:
    target = HttpsTarget(url, API_KEY, lambda envelope: envelope, **options)
    try:
        yield target
    finally:
        target.close()


def deliver(url: str, **options: Any) -> Outcome:
    with target_of(url, **options) as target:
        return target.deliver(wire.EVENTS, "node", "key", b"sealed")


def tls_server(certificates: Certificates, **changes: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    for name, value in changes.items():
        setattr(context, name, value)
    return context


# -- S24: TLS ---------------------------------------------------------------------------------------------------------


def test_s24_a_given_authority_is_trusted(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    with Raw(said(OK), tls_server(certificates)) as server:
        outcome = deliver("https://127.0.0.1:%d" % server.port, ca_file=str(certificates.ca))
        assert outcome.verdict is Verdict.ACK and outcome.answer == {"ok": True}
        assert deliver("https://localhost:%d" % server.port, ca_file=str(certificates.ca)).verdict is Verdict.ACK


def expired(certificates: Certificates, directory: Path) -> Certificates:
    """The server's certificate once more, by itself and out of date: expired and self-signed."""
    import datetime

    old = x509.load_pem_x509_certificate(certificates.certificate.read_bytes())
    key = serialization.load_pem_private_key(certificates.key.read_bytes(), None)
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.subject)
        .public_key(old.public_key())
        .serial_number(old.serial_number)
    )
    builder = builder.not_valid_before(now - datetime.timedelta(days=9)).not_valid_after(now - datetime.timedelta(days=1))
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    path = directory / "expired.pem"
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return replace(certificates, certificate=path, ca=path)


@pytest.mark.parametrize("case", ["unknown authority", "self-signed", "expired", "wrong name", "other authority"])
def test_s24_a_certificate_that_does_not_hold_is_refused_before_anything_is_sent(tmp_path: Path, case: str) -> None:
    certificates = make_certificates(tmp_path, ["ingest.example"] if case == "wrong name" else ["127.0.0.1"])
    ca_file: Optional[str] = str(certificates.ca)
    if case in ("unknown authority", "self-signed"):
        ca_file = None
    if case in ("expired", "self-signed"):
        certificates = expired(certificates, tmp_path)
        ca_file = str(certificates.ca) if case == "expired" else None
    if case == "other authority":
        (tmp_path / "other").mkdir()
        ca_file = str(make_certificates(tmp_path / "other").ca)
    with Raw(said(OK), tls_server(certificates)) as server:
        outcome = deliver("https://127.0.0.1:%d" % server.port, ca_file=ca_file)
        assert outcome.verdict is Verdict.RETRY
        assert "certificate" in outcome.reason.lower(), outcome.reason
        assert API_KEY not in outcome.reason
        assert server.connections >= 1 and server.requests == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_s24_old_tls_is_refused(tmp_path: Path, version: ssl.TLSVersion) -> None:
    certificates = make_certificates(tmp_path)
    context = tls_server(certificates)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = version
    with Raw(said(OK), context) as server:
        assert deliver("https://127.0.0.1:%d" % server.port, ca_file=str(certificates.ca)).verdict is Verdict.RETRY
        assert server.connections >= 1 and server.requests == []
    assert https.tls_context(None).minimum_version >= ssl.TLSVersion.TLSv1_2


def test_s24_no_setting_turns_verification_off(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    for context in (https.tls_context(None), https.tls_context(str(certificates.ca))):
        assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
    for bad in ("/none", str(tmp_path), str(certificates.key)):
        with pytest.raises(ConfigError, match="cannot use ca_file"):
            https.tls_context(bad)


@pytest.mark.parametrize(
    "url",
    [
        "http://ingest.example",
        "http://10.0.0.1:8080",
        "http://127.0.0.1.example",
        "http://localhost.example",
        "http://[::ffff:10.0.0.1]",
        "http://0.0.0.0",
        "http://2130706434",
        "http://127.0.0.1@ingest.example",
        "https://user:secret@ingest.example",
        "ftp://ingest.example",
        "ingest.example",
        "//ingest.example",
        "https://",
        "https://ingest.example?x=1",
        "https://ingest.example#x",
    ],
)
def test_s24_no_plain_http_but_to_loopback(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_url("ingest_url", url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://ingest.example", "file:///x"])
def test_s24_what_may_be_an_ingest(url: str) -> None:
    assert check_url("ingest_url", url + "/") == url


def test_s24_the_daemon_keeps_its_data_for_a_good_certificate(tmp_path: Path) -> None:
    """Refused by a stranger's certificate nothing is lost, and nothing has been said to the stranger."""
    certificates = make_certificates(tmp_path)
    with Ingest(certificates=certificates) as ingest:
        node = Node(tmp_path, ingest)
        node.append("one", 3)
        result = node.daemon.json("sync", "--timeout", "3")
        assert result["ok"] is False and ingest.requests == []
        assert "ertificate" in json.dumps(result["errors"])
        node.daemon.config["ca_file"] = str(certificates.ca)
        node.daemon.write_config()
        assert node.daemon.json("sync")["ok"] is True
        node.arrived()


# -- S25: redirects ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 300, 304])
@pytest.mark.parametrize("where", ["{other}/ingest/events", "//127.0.0.1:{port}/ingest/events", "/elsewhere"])
def test_s25_a_redirect_is_not_followed(status: int, where: str) -> None:
    with Raw(said(OK)) as other:
        place = where.format(other="http://127.0.0.1:%d" % other.port, port=other.port)
        answer = "HTTP/1.1 %d Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, place)
        with Raw(said(answer.encode())) as server:
            outcome = deliver("http://127.0.0.1:%d" % server.port)
            assert outcome.verdict is Verdict.RETRY
            assert len(server.requests) == 1
        assert other.connections == 0


def test_s25_the_key_goes_to_the_ingest_alone(tmp_path: Path) -> None:
    """The whole daemon, redirected on every endpoint: nothing reaches the other side, nothing is lost."""
    with Raw(said(OK)) as other, Ingest() as ingest:
        node = Node(tmp_path, ingest)
        node.append("one", 3)
        place = {"Location": "http://127.0.0.1:%d/ingest/events" % other.port}
        ingest.policy = lambda request: Fault(status=307, headers=place)
        assert node.daemon.json("sync", "--timeout", "3")["ok"] is False
        assert other.connections == 0
        ingest.policy = None
        assert node.daemon.json("sync")["ok"] is True
        node.arrived()


# -- S26: the environment ---------------------------------------------------------------------------------------------


def test_s26_nothing_in_the_environment_counts(tmp_path: Path) -> None:
    """No proxy, no netrc, no authority of the environment; a .netrc for the very host is not read."""
    certificates = make_certificates(tmp_path)
    with Raw(said(OK)) as proxy, Ingest(certificates=certificates) as ingest:
        node = Node(tmp_path, ingest)
        node.append("one", 3)
        netrc = node.daemon.directory / ".netrc"
        netrc.write_text("machine 127.0.0.1 login someone password canary-netrc\ndefault login someone password canary-netrc\n")
        netrc.chmod(0o600)
        url = "http://127.0.0.1:%d" % proxy.port
        environment = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"), url)
        environment.update({name: str(certificates.ca) for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")})
        environment.update(NETRC=str(netrc), SSL_CERT_DIR=str(tmp_path), NO_PROXY="", SSLKEYLOGFILE=str(tmp_path / "keylog"))
        # The authority is in the environment only: the certificate is a stranger's.
        result = node.daemon.json("sync", "--timeout", "3", env=environment)
        assert result["ok"] is False and ingest.requests == []
        node.daemon.config["ca_file"] = str(certificates.ca)
        node.daemon.write_config()
        assert node.daemon.json("sync", env=environment)["ok"] is True
        node.arrived()
        assert proxy.connections == 0
        for request in ingest.requests:
            assert "canary-netrc" not in repr(request.headers) and "authorization" not in request.headers
        assert not (tmp_path / "keylog").exists()


def test_s26_a_proxy_of_the_configuration_is_used() -> None:
    with Raw(said(OK)) as proxy:
        assert deliver("http://127.0.0.1:9", proxy="http://127.0.0.1:%d" % proxy.port).verdict is Verdict.ACK
        assert proxy.requests[0].startswith(b"POST http://127.0.0.1:9/ingest/events ")


# -- S27: answers -----------------------------------------------------------------------------------------------------


def test_s27_an_endless_answer_is_cut() -> None:
    def endless(stream: Any) -> None:
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")
        while True:
            stream.sendall(b"x" * 65536)

    with Raw(endless) as server:
        began = time.monotonic()
        outcome = deliver("http://127.0.0.1:%d" % server.port)
        assert time.monotonic() - began < 10
        assert outcome.answer is None


def test_s27_a_compressed_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(200 << 20), 9)
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    with Raw(said(answer + bomb)) as server:
        import resource

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome = deliver("http://127.0.0.1:%d" % server.port)
        assert outcome.answer is None
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10


@pytest.mark.parametrize("mute", ["no answer", "body trickles"])
def test_s27_a_slow_answer_is_given_up(monkeypatch: pytest.MonkeyPatch, mute: str) -> None:
    monkeypatch.setattr(https, "ANSWER_TIMEOUT_S", 1.0)
    monkeypatch.setattr(https, "CONNECT_TIMEOUT_S", 0.5)

    def slow(stream: Any) -> None:
        if mute == "body trickles":
            stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for _second in range(200):
            time.sleep(0.1)
            if mute == "body trickles":
                stream.sendall(b" ")

    with Raw(slow) as server:
        began = time.monotonic()
        outcome = deliver("http://127.0.0.1:%d" % server.port)
        assert time.monotonic() - began < 8
        assert outcome.answer is None
        if mute == "no answer":
            assert outcome.verdict is Verdict.RETRY


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 200_000,
        b'{"a":' + b"9" * 10_000 + b"}",
        b'{"ok":true',
        b"<html>",
        b'{"caps":[1],"sync_allowed":"no"}',
    ],
)
def test_s27_nonsense_in_an_answer_is_harmless(body: bytes) -> None:
    with Raw(said(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)) as server:
        outcome = deliver("http://127.0.0.1:%d" % server.port)
        assert outcome.verdict is Verdict.ACK
        assert outcome.answer is None or isinstance(outcome.answer, dict)


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 9999 x\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
    ],
)
def test_s27_what_is_no_http_is_tried_again(answer: bytes) -> None:
    def once(stream: Any) -> None:
        stream.sendall(answer)
        stream.close()

    with Raw(once) as server:
        outcome = deliver("http://127.0.0.1:%d" % server.port)
        assert outcome.verdict is Verdict.RETRY
        assert API_KEY not in outcome.reason and outcome.reason.isprintable()


def test_s27_an_answer_is_neither_logged_nor_believed(tmp_path: Path) -> None:
    """A hostile ingest's words reach no log, no status and no file raw; its node id is only taken when we have none."""
    words = "\x1b[31mcanary-words\nlevel=error"
    with Ingest() as ingest:
        node = Node(tmp_path, ingest)
        node.append("one", 3)
        ingest.policy = lambda request: Fault(
            status=500 if request.endpoint == EVENTS else 200,
            body={"node_id": "../../" + words, "error": words, "caps": {"blob_gzip": words}},
        )
        node.daemon.start(arguments=("--log-level", "debug", "run"))
        try:
            ingest.wait(lambda me: me.count(EVENTS) >= 2, what="two tries")
            status = node.daemon.cli("status", "--json").stdout + node.daemon.cli("status").stdout
        finally:
            node.daemon.kill()
        assert b"canary-words" not in status and b"canary-words" not in node.daemon.log_file.read_bytes()
        ingest.check()  # nothing was compressed on the word of a nonsense


def test_the_daemons_tls_is_not_a_matter_of_the_client_library(tmp_path: Path) -> None:
    """No call in the engine turns verification off, and one room only opens connections: the daemon's, and the doctor's beside it."""
    engine = Path(__file__).parents[2] / "plugins" / "module_utils"
    words = ("CERT_NONE", "check_hostname = False", "_create_unverified", "verify=False", "assert_hostname", "disable_warnings")
    done = subprocess.run(["grep", "-rnE", "--include=*.py", "|".join(words), str(engine)], capture_output=True, check=False)
    assert done.stdout == b""
    done = subprocess.run(
        ["grep", "-rlE", "--include=*.py", "import (urllib3|requests|http.client|urllib.request)", str(engine)],
        capture_output=True,
        check=False,
    )
    found = {Path(line).relative_to(engine).as_posix() for line in done.stdout.decode().split()}
    assert found <= {"ship/https.py", "ship/probe.py", "dockerapi.py"}
