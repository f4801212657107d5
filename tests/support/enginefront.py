# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A socket in front of the real engine that lists chosen containers only, so that a test has a host of its own, and can stop it."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

REAL = "/var/run/docker.sock"


class _Real(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(REAL)


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    owner: EngineFront


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        real = _Real("localhost")
        real.request(self.command, self.path)
        answer = real.getresponse()
        body = answer.read()
        if self.path.startswith("/containers/json"):
            body = json.dumps([row for row in json.loads(body) if row["Id"] in self.server.owner.shown]).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        real.close()


class EngineFront:
    """``with EngineFront() as engine: engine.shown.add(box.id)``; ``engine.url`` is what to configure."""

    def __init__(self) -> None:
        self.shown: set[str] = set()
        # Sockets have short paths.
        self._directory = Path(tempfile.mkdtemp(prefix="front-"))
        self.url = "unix://%s/docker.sock" % self._directory
        self._server = _Server(str(self._directory / "docker.sock"), _Handler)
        self._server.owner = self
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """As an engine that was stopped: its socket is gone."""
        self._server.shutdown()
        self._server.server_close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> EngineFront:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._directory.exists():
            self.stop()
