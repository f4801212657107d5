# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""One sync on request: by the daemon that runs here, else in this process."""

from __future__ import annotations

import time
from typing import Any, Mapping, Optional

from . import control
from .config import Settings
from .daemon import Daemon
from .log import Log


def run_sync(
    settings: Settings, env: Mapping[str, str], timeout_s: float, log: Optional[Log] = None, progress: Any = lambda *_: None
) -> dict[str, Any]:
    """Sync once: by the daemon that runs here, else in this process. Returns the facts' ``sync`` mapping."""
    answer = control.ask(settings.socket_path, {"op": "sync", "timeout_s": timeout_s}, timeout_s + 15.0)
    if answer is not None:
        return answer
    began = time.monotonic()
    daemon = Daemon(settings, env, log or Log("error"))
    daemon.start()
    try:
        errors: list[str] = daemon.sync_once(began + timeout_s, progress)
        counts = daemon.queue.counts()
        if counts["pending"] and not errors:
            errors.append("%d envelopes still wait after %g s" % (counts["pending"], timeout_s))
        return control.outcome(daemon.totals(), counts, errors, began)
    finally:
        daemon.close()
