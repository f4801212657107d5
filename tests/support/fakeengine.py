# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A container engine that serves hand-written JSON on a unix socket, and can be told to misbehave."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from types import TracebackType
from typing import Any, Optional

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "discover"


def load(name: str) -> Any:
    return json.loads((FIXTURES / name).read_text(encoding="utf-8"))


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    owner: FakeEngine

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        engine = self.server.owner
        engine.asked.append(self.path)
        if engine.hang.is_set():
            engine.release.wait(30)
            return
        status, body = engine.answer(self.path)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class FakeEngine:
    """Serves ``version``, ``containers`` and ``inspect`` (by id); ``raw`` replaces the body of a path.

    The socket lies at <root>/var/run/docker.sock, so that <root> is a made-up host. Sockets have
    short paths, hence a directory of our own instead of pytest's.
    """

    def __init__(self, *names: str) -> None:
        self.version: Any = {"Version": "28.2.2"}
        self.containers: list[Any] = []
        self.inspect: dict[str, Any] = {}
        self.raw: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.hang = threading.Event()
        self.release = threading.Event()
        for name in names:
            document = load(name)
            self.version = document["version"]
            self.containers += document["containers"]
            self.inspect.update(document["inspect"])
        self.root = Path(tempfile.mkdtemp(prefix="host-"))
        self.socket = self.root / "var/run/docker.sock"
        self.url = "unix://%s" % self.socket
        self._server: Optional[_Server] = None

    def answer(self, path: str) -> tuple[int, bytes]:
        if path in self.raw:
            return 200, self.raw[path]
        if path == "/version":
            return 200, json.dumps(self.version).encode()
        if path == "/containers/json?all=1":
            return 200, json.dumps(self.containers).encode()
        container = self.inspect.get(path.split("/")[2]) if path.endswith("/json") else None
        return (200, json.dumps(container).encode()) if container else (404, b'{"message": "No such container"}')

    def start(self) -> None:
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        self._server = _Server(str(self.socket), _Handler)
        self._server.owner = self
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Leave the socket file behind, as a killed engine does."""
        if self._server is not None:
            self.release.set()
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> FakeEngine:
        self.start()
        return self

    def __exit__(self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)


def silent_socket(path: Path) -> socket.socket:
    """Return a listening socket that accepts into its backlog and never answers: a stopped engine."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(8)
    return listener
