# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""One question to an ingest, answered with who spoke and in which words: the doctor's eyes on the network.

A POST without a key and with an empty object on a path the daemon uses: an egress rule that lets the daemon
through lets it through, and an ingest refuses it. Nothing is taken from the environment, no redirect is
followed, answers are capped. CONNECT is spoken here by hand, for a library drops what a proxy says in its refusal.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Mapping, Optional
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import shown
from ..version import VERSION
from .https import tls_context

TIMEOUT_S = 8.0
MAX_BODY_BYTES = 64 << 10


@dataclass(frozen=True)
class Answer:
    """How far the question came: resolve, connect, proxy (it refused the tunnel), tls, http (no sense), or answered."""

    stage: str
    where: str  # host:port that the stage was about
    reason: str = ""
    status: Optional[int] = None
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""
    tls: Optional[str] = None

    def json(self) -> dict[str, Any]:
        """Return the JSON object of the body, {} when it is none."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}


class _Failed(Exception):
    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.reason)
        self.answer = answer


def ask(
    url: str,
    path: str,
    *,
    ca_file: Optional[str] = None,
    proxy: Optional[str] = None,
    headers: Optional[Mapping[str, str]] = None,
    body: bytes = b"{}",
    timeout_s: float = TIMEOUT_S,
) -> Answer:
    """POST BODY to PATH of the ingest at URL and return what came of it. Raises ConfigError for an unusable ca_file."""
    target = urlsplit(url)
    try:
        return _ask(target, target.path + path, ca_file, urlsplit(proxy) if proxy else None, headers or {}, body, timeout_s)
    except _Failed as failed:
        return failed.answer


def _place(parts: SplitResult) -> tuple[str, int]:
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _ask(
    target: SplitResult,
    path: str,
    ca_file: Optional[str],
    proxy: Optional[SplitResult],
    headers: Mapping[str, str],
    body: bytes,
    timeout_s: float,
) -> Answer:
    host, port = _place(target)
    where = "%s:%d" % (host, port)
    connection: Any = _dial(*_place(proxy or target), timeout_s)
    version = None
    try:
        request_target = path
        if proxy is not None:
            if proxy.scheme == "https":
                connection = _wrap(connection, _place(proxy), ca_file)
            if target.scheme == "https":
                _tunnel(connection, where, proxy)
            else:
                request_target = "http://%s%s" % (where, path)
        if target.scheme == "https":
            connection = _wrap(connection, (host, port), ca_file, inside=proxy is not None and proxy.scheme == "https")
            version = connection.version()
        lines = {
            "Host": host if target.port is None else where,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "User-Agent": "clawmetry-sync/" + VERSION,
            "Accept-Encoding": "identity",
            "Connection": "close",
            **headers,
        }
        if proxy is not None and target.scheme != "https":
            lines.update(_credentials(proxy))
        return _talk(connection, "POST", request_target, lines, body, where, "answered", version)
    finally:
        connection.close()


def _dial(host: str, port: int, timeout_s: float) -> socket.socket:
    where = "%s:%d" % (host, port)
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise _Failed(Answer("resolve", where, _words(exc))) from None
    failure = ""
    for family, kind, protocol, _name, address in addresses[:4]:
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(timeout_s)
        try:
            connection.connect(address)
            return connection
        except OSError as exc:
            connection.close()
            failure = "%s: %s" % (address[0], _words(exc))
    raise _Failed(Answer("connect", where, failure))


def _wrap(connection: Any, place: tuple[str, int], ca_file: Optional[str], *, inside: bool = False) -> Any:
    """Return CONNECTION in TLS with the daemon's own rules; INSIDE another TLS when the proxy itself speaks it."""
    context = tls_context(ca_file)
    try:
        if inside:
            transport = import_module("urllib3.util.ssltransport").SSLTransport
            return transport(connection, context, place[0])
        return context.wrap_socket(connection, server_hostname=place[0])
    except ssl.SSLCertVerificationError as exc:
        raise _Failed(Answer("tls", "%s:%d" % place, "its certificate is not accepted: %s" % shown(exc.verify_message))) from None
    except (OSError, ValueError) as exc:
        raise _Failed(Answer("tls", "%s:%d" % place, _words(exc))) from None


def _tunnel(connection: Any, where: str, proxy: SplitResult) -> None:
    answer = _talk(connection, "CONNECT", where, {"Host": where, **_credentials(proxy)}, b"", "%s:%d" % _place(proxy), "proxy", None)
    if answer.stage != "proxy" or not 200 <= (answer.status or 0) < 300:
        raise _Failed(answer)


def _credentials(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = "%s:%s" % (unquote(proxy.username), unquote(proxy.password or ""))
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair.encode()).decode("ascii")}


def _talk(
    connection: Any, method: str, target: str, headers: Mapping[str, str], body: bytes, where: str, stage: str, tls: Optional[str]
) -> Answer:
    head = "%s %s HTTP/1.1\r\n%s\r\n" % (method, target, "".join("%s: %s\r\n" % item for item in headers.items()))
    response = None
    try:
        connection.sendall(head.encode("latin-1") + body)
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        names = {name.lower(): value for name, value in response.getheaders()}
        data = b""
        if method != "CONNECT" or response.status >= 300:
            data = response.read(MAX_BODY_BYTES)
        return Answer(stage, where, "", response.status, names, data, tls)
    except (OSError, http.client.HTTPException, ValueError) as exc:
        return Answer("http", where, _words(exc), tls=tls)
    finally:
        if response is not None:
            response.close()


def _words(exc: BaseException) -> str:
    if isinstance(exc, socket.timeout):
        return "no answer in time"
    text = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return shown(text or type(exc).__name__)
