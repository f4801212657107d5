# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A sandbox's way out, as OpenShell's L7 proxy is: takes CONNECT only, ends TLS with an authority of its own, and lets
through what a policy allows: this host and port, for this program, with this method on this exact path, and nothing else.

The policy is OpenShell's YAML (``network_policies``), read again for every request. What it denies is answered with
HTTP 403 and {"error": "policy_denied", …}. The program is found as OpenShell finds it: by the socket's inode and
/proc/<pid>/exe. One leg is in the network of the sandbox (--netns), the other where it was started.

    python -m support.forward_proxy --listen 10.200.0.1:3128 --netns /proc/1/ns/net --container ID --policy FILE
        --certificates DIR --upstream ingest.example.org:8443=127.0.0.1:1234 --upstream-ca FILE --log FILE
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import http.client
import json
import os
import re
import socket
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from support.tls import make_certificates

CLONE_NEWNET = 0x40000000
MAX_HEAD = 64 * 1024
TIMEOUT_S = 60.0
HOP_BY_HOP = ("connection", "transfer-encoding", "content-length")


@dataclass(frozen=True)
class Denied(Exception):
    """Why the policy has it that way."""

    detail: str


def endpoint_of(policy: Any, host: str, port: int, binary: str) -> Any:
    """Return the endpoint of the entry that lets BINARY reach HOST and PORT. Raises Denied."""
    entries = (policy or {}).get("network_policies") or {}
    named = False
    for entry in entries.values():
        for endpoint in entry.get("endpoints", ()):
            if endpoint["host"] != host or endpoint["port"] != port:
                continue
            named = True
            if binary in [item["path"] for item in entry.get("binaries", ())]:
                return endpoint
    raise Denied("%s is not among the binaries of %s:%d" % (binary, host, port) if named else "no rule for %s:%d" % (host, port))


def check(endpoint: Any, method: str, path: str) -> None:
    """Raise Denied unless a rule of the endpoint allows METHOD on exactly PATH."""
    if endpoint.get("enforcement") != "enforce" or endpoint.get("protocol") != "rest" or "rules" not in endpoint:
        raise Denied("the endpoint is not one that this proxy knows how to enforce")
    allowed = [rule["allow"] for rule in endpoint["rules"]]
    if not any(rule["method"] == method and rule["path"] == path for rule in allowed):
        raise Denied("no rule allows %s %s" % (method, path))


def program_of(address: tuple[str, int], container: str) -> str:
    """Return the executable of whoever in the container owns the connection from ADDRESS, or why that is not known."""
    pids = [pid for pid in os.listdir("/proc") if pid.isdigit() and container in _text("/proc/%s/cgroup" % pid)]
    local = "%s:%04X" % ("".join("%02X" % int(part) for part in reversed(address[0].split("."))), address[1])
    rows = [row.split() for pid in pids for row in _text("/proc/%s/net/tcp" % pid).splitlines()[1:]]
    wanted = {"socket:[%s]" % row[9] for row in rows if row[1] == local and row[9] != "0"}
    for pid in pids:
        with contextlib.suppress(OSError):
            if wanted & set(map(_link, os.scandir("/proc/%s/fd" % pid))):
                return os.readlink("/proc/%s/exe" % pid)
    return "unknown (%d processes, %d rows, %d of them its own)" % (len(pids), len(rows), len(wanted))


def _link(entry: os.DirEntry[str]) -> str:
    try:
        return os.readlink(entry.path)
    except OSError:
        return ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


class Proxy:
    """Serves until it is killed."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.policy = Path(arguments.policy)
        self.container = arguments.container
        self.log_file = Path(arguments.log)
        name, _sep, place = arguments.upstream.partition("=")
        self.host, port = name.rsplit(":", 1)
        self.port = int(port)
        self.place = place.rsplit(":", 1)
        made = make_certificates(Path(arguments.certificates), [self.host])
        self.inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.inside.load_cert_chain(made.certificate, made.key)
        self.outside = ssl.create_default_context(cafile=arguments.upstream_ca)
        self._lock = threading.Lock()

    def allowed(self, binary: str, host: str, port: int, method: str = "", path: str = "") -> None:
        """Raise Denied, or return; either is written down."""
        verdict = "allowed"
        try:
            endpoint = endpoint_of(yaml.safe_load(self.policy.read_text()), host, port, binary)
            if method:
                check(endpoint, method, path)
        except Denied as exc:
            verdict = exc.detail
            raise
        finally:
            row = {"host": host, "port": port, "binary": binary, "method": method or "CONNECT", "path": path, "verdict": verdict}
            with self._lock, self.log_file.open("a") as log:
                log.write(json.dumps(row) + "\n")

    def serve(self, client: socket.socket, address: tuple[str, int]) -> None:
        with client, contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            client.settimeout(TIMEOUT_S)
            head = read_head(client.recv)
            found = re.match(rb"CONNECT ([A-Za-z0-9.-]+):(\d+) HTTP/1\.[01]\r\n", head)
            if found is None:
                client.sendall(answer(400, b"only CONNECT\n"))
                return
            host, port = found.group(1).decode(), int(found.group(2))
            binary = program_of(address, self.container)
            try:
                self.allowed(binary, host, port)
            except Denied as exc:
                client.sendall(denial(exc, host, port, binary))
                return
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with self.inside.wrap_socket(client, server_side=True) as secured:
                while self.one(secured, host, port, binary):
                    pass

    def one(self, client: ssl.SSLSocket, host: str, port: int, binary: str) -> bool:
        """Pass one request on, or refuse it. False when the connection is over."""
        head = read_head(client.recv)
        if not head:
            return False
        line, _sep, rest = head.partition(b"\r\n")
        method, target, _version = line.decode("ascii").split(" ")
        headers = dict(row.split(": ", 1) for row in rest.decode("latin-1").split("\r\n") if row)
        lower = {name.lower(): value for name, value in headers.items()}
        body = b""
        while len(body) < int(lower.get("content-length", "0")):
            piece = client.recv(65536)
            if not piece:
                return False
            body += piece
        try:
            self.allowed(binary, host, port, method, target.partition("?")[0])
        except Denied as exc:
            client.sendall(denial(exc, host, port, binary))
            return False
        upstream = http.client.HTTPSConnection(self.host, self.port, timeout=TIMEOUT_S)
        plain = socket.create_connection((self.place[0], int(self.place[1])), TIMEOUT_S)
        upstream.sock = self.outside.wrap_socket(plain, server_hostname=self.host)
        with contextlib.closing(upstream):
            upstream.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body)
            reply = upstream.getresponse()
            data = reply.read()
        keep = [(name, value) for name, value in reply.getheaders() if name.lower() not in HOP_BY_HOP]
        lines = ["HTTP/1.1 %d %s" % (reply.status, reply.reason), *("%s: %s" % row for row in keep), "Content-Length: %d" % len(data)]
        client.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + data)
        return lower.get("connection", "").lower() != "close"


def read_head(recv: Any) -> bytes:
    """Return a request's head without its empty line, byte by byte: what follows is not ours yet."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = recv(1)
        if not piece or len(head) > MAX_HEAD:
            return b""
        head += piece
    return head[:-4] + b"\r\n"


def answer(status: int, body: bytes, kind: str = "text/plain") -> bytes:
    reason = http.client.responses[status]
    head = "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, reason, kind, len(body))
    return head.encode() + body


def denial(exc: Denied, host: str, port: int, binary: str) -> bytes:
    told = {"error": "policy_denied", "detail": exc.detail, "host": host, "port": port, "binary": binary}
    return answer(403, json.dumps(told).encode(), "application/json")


def listen_in(netns: str, address: str) -> socket.socket:
    """Return a socket that listens at ADDRESS in another network namespace; this process stays in its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    host, port = address.rsplit(":", 1)
    with open("/proc/self/ns/net") as own, open(netns) as other:
        for place in (other, own):
            if libc.setns(place.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            if place is other:
                server = socket.create_server((host, int(port)))
    return server


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("listen", "netns", "container", "policy", "certificates", "upstream", "upstream-ca", "log"):
        parser.add_argument("--" + name, required=True)
    arguments = parser.parse_args()
    proxy = Proxy(arguments)
    server = listen_in(arguments.netns, arguments.listen)
    print("listening", flush=True)
    while True:
        client, address = server.accept()
        threading.Thread(target=proxy.serve, args=(client, address), daemon=True).start()


if __name__ == "__main__":
    main()
