# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""An engine that can be stopped, hung and restarted without touching the real one: a process that passes its socket on.

As a program: ``python -m support.engineproxy LISTEN TO``; it passes bytes until it is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Optional

ENGINE = "/var/run/docker.sock"


class EngineProxy:
    """``start`` and ``stop`` may alternate; ``hang`` and ``go_on`` stop and continue the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process: Optional[subprocess.Popen[bytes]] = None

    def __enter__(self) -> EngineProxy:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return "unix://%s" % self.path

    def start(self) -> None:
        tests = str(Path(__file__).resolve().parents[1])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.engineproxy", str(self.path), ENGINE], stdin=subprocess.DEVNULL, env={"PYTHONPATH": tests}
        )
        deadline = time.monotonic() + 20
        while not self.path.exists():
            if time.monotonic() > deadline:
                raise AssertionError("the engine's proxy did not start")
            time.sleep(0.05)

    def stop(self) -> None:
        """As an engine that ends: its socket stays, and nobody listens."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def hang(self) -> None:
        """As an engine that is stopped: connections are taken by the kernel, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is None:
            raise AssertionError("it does not run")
        self._process.send_signal(number)


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def main(listen: str, to: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(listen)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(listen)
        server.listen(16)
        while True:
            client, _peer = server.accept()
            engine = socket.socket(socket.AF_UNIX)
            engine.connect(to)
            for pair in ((client, engine), (engine, client)):
                threading.Thread(target=_pass_on, args=pair, daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
