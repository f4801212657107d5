# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""What we tell systemd: ready, alive, stopping. Nothing where NOTIFY_SOCKET is not set. Source: sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time
from typing import Mapping


class Notifier:
    def __init__(self, env: Mapping[str, str]) -> None:
        self._address = env.get("NOTIFY_SOCKET", "")
        usec = env.get("WATCHDOG_USEC", "")
        # Twice per interval, as sd_watchdog_enabled(3) advises; 0 when no watchdog is asked for.
        self._interval_s = int(usec) / 2e6 if usec.isdigit() and env.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()) else 0.0
        self._last = 0.0

    def send(self, message: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.connect(address)
                sender.send(message.encode())
            except OSError:
                pass  # nobody listens: nothing we could do about it

    def alive(self) -> None:
        now = time.monotonic()
        if self._interval_s and now - self._last >= self._interval_s:
            self._last = now
            self.send("WATCHDOG=1")
