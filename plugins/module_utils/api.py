# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""What the Ansible module asks of the engine: a snapshot, and on request one sync."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from importlib import import_module
from typing import Any, Mapping, Optional, Sequence

from . import hostinfo, peek
from . import snapshot as shapes
from .config import Settings, load
from .discover import discover
from .errors import ClawmetryError, ConfigError
from .holding import survey_all
from .log import Log
from .model import RUNTIMES


def snapshot(
    *,
    config_path: Optional[str] = None,
    gather_subset: Sequence[str] = ("all",),
    sandbox: Optional[str] = None,
    deep: bool = False,
    sync: bool = False,
    timeout_s: float = 60.0,
    env: Optional[Mapping[str, str]] = None,
) -> dict[str, Any]:
    """Return the facts of design.md. Reads only, unless SYNC. Raises ConfigError and its kin.

    ``gather_subset``: names of runtimes, "all" (those of the configuration), or "min" (the host and its
    runtimes, no look into any sandbox). ``sandbox`` restricts to one, as NEMOCLAW_SANDBOX does.
    """
    env = dict(os.environ if env is None else env)
    settings = load(config_path, env)
    if sandbox:
        settings = replace(settings, only=sandbox)
    chosen = set(gather_subset)
    unknown = chosen - set(RUNTIMES) - {"all", "min"}
    if unknown:
        raise ConfigError("gather_subset: %s is none of %s" % (", ".join(sorted(unknown)), ", ".join((*RUNTIMES, "all", "min"))))
    named = tuple(name for name in RUNTIMES if name in chosen)
    if named and "all" not in chosen:
        settings = replace(settings, discover=named)
    outcome = run_sync(settings, env, timeout_s) if sync else None
    found = discover(
        **settings.discovery,
        deep=deep,
    )
    surveys = {} if chosen == {"min"} else survey_all(settings, found)
    host = hostinfo.gather(node_id=settings.node_id or known_node_id(settings), env=env)
    return shapes.facts(host, found, surveys, outcome)


def known_node_id(settings: Settings) -> Optional[str]:
    """Return the node id an earlier start has kept, None when there is none or it is not ours to read."""
    try:
        if not os.path.isfile(settings.queue_path):
            return None
        return peek.meta(settings.queue_path, "node_id")
    except (ClawmetryError, OSError):
        return None


def run_sync(
    settings: Settings, env: Mapping[str, str], timeout_s: float, log: Optional[Log] = None, progress: Any = lambda *_: None
) -> dict[str, Any]:
    """Sync once: by the daemon that runs here, else in this process. Returns the facts' ``sync`` mapping."""
    # Imported by name: what Ansible's packer sees imported travels with every call of the module (P7),
    # which leaves the syncing to the installed release.
    control = import_module(".control", __package__)
    daemon_room = import_module(".daemon", __package__)
    answer: Optional[dict[str, Any]] = control.ask(settings.socket_path, {"op": "sync", "timeout_s": timeout_s}, timeout_s + 15.0)
    if answer is not None:
        return answer
    began = time.monotonic()
    daemon = daemon_room.Daemon(settings, env, log or Log("error"))
    daemon.start()
    try:
        errors: list[str] = daemon.sync_once(began + timeout_s, progress)
        counts = daemon.queue.counts()
        if counts["pending"] and not errors:
            errors.append("%d envelopes still wait after %g s" % (counts["pending"], timeout_s))
        outcome: dict[str, Any] = control.outcome(daemon.totals(), counts, errors, began)
        return outcome
    finally:
        daemon.close()
