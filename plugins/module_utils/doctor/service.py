# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The service: its unit, the daemon that answers, its queue, other daemons on the same data, and versions."""

from __future__ import annotations

import os
from typing import Any, Optional

from .. import upstream
from ..errors import CommandError, shown
from ..queue import Queue
from ..version import VERSION
from .check import FAIL, OK, WARN, Check, Ground, told

UNIT = "clawmetry.service"
PROPERTIES = ("LoadState", "ActiveState", "SubState", "UnitFileState", "NRestarts", "Result")
CURRENT = "/opt/clawmetry/current"
JOURNAL = "journalctl -u clawmetry -n 50"
FULL = 0.8


def unit(ground: Ground) -> list[Check]:
    """What systemd says of the unit; nothing where systemd does not run the host."""
    if not ground.has_systemd:
        return []
    why = "it starts the daemon at boot and after a crash"
    try:
        answer = ground.runner(["systemctl", "show", "--property=" + ",".join(PROPERTIES), UNIT])
    except CommandError as exc:
        return [Check("unit", WARN, told(exc), why, "systemctl status clawmetry")]
    said = dict(line.partition("=")[::2] for line in answer.stdout.decode("utf-8", "replace").splitlines())
    state, enabled = said.get("ActiveState", ""), said.get("UnitFileState", "")
    seen = shown("%s (%s), %s" % (state or "no state", said.get("SubState", ""), enabled or "not enabled"))
    if answer.rc != 0 or said.get("LoadState") == "not-found":
        level = OK if ground.status is not None else WARN
        text = "systemd has no %s" % UNIT
        step = "ansible-playbook -b clawmetry.sync.site, or scripts/install.sh" if level == WARN else ""
        return [Check("unit", level, text, why, step)]
    if state == "failed":
        return [Check("unit", FAIL, "%s: %s" % (seen, shown(said.get("Result", ""))), "nothing is synced meanwhile", JOURNAL)]
    if state != "active":
        step = "systemctl enable --now clawmetry" if state == "inactive" else JOURNAL
        return [Check("unit", WARN, seen, "nothing is synced meanwhile", step)]
    restarts = said.get("NRestarts", "0")
    if restarts.isdigit() and int(restarts) >= 3:
        return [Check("unit", WARN, "%s, restarted %s times" % (seen, restarts), "something stops it again and again", JOURNAL)]
    if enabled not in ("enabled", "enabled-runtime", "static", "linked"):
        return [Check("unit", WARN, seen, "it is not started at the next boot", "systemctl enable clawmetry")]
    return [Check("unit", OK, seen, why)]


def daemon(ground: Ground) -> list[Check]:
    status = ground.status
    problem = ground.status_problem
    why = "it is what reads and ships"
    if problem is not None:
        return [Check("daemon", WARN, told(problem), why, problem.next_step or "systemctl status clawmetry")]
    if status is None:
        step = "systemctl start clawmetry" if ground.has_systemd else "clawmetry run"
        if ground.host.in_sandbox:
            step = "on the host: systemctl status 'clawmetry-sandbox@*'"
        place = "no state yet" if not os.path.isdir(ground.settings.state_dir) else "its cursors are kept"
        path = ground.settings.queue_path
        reason = Queue.peek_status(path).get("reason") if os.path.isfile(path) and os.access(path, os.R_OK) else None
        if reason is not None:
            step = "move %s away to start over (everything is sent once more), or restore it" % path
            return [Check("queue", FAIL, shown(str(reason), 300), "the daemon does not start with it", step)]
        return [Check("daemon", WARN, "not running; " + place, "nothing is synced meanwhile", step)]
    state = shown(str(status.get("state")))
    text = "process %s, state %s" % (shown(str(status.get("pid"))), state)
    if status.get("trouble"):
        text += ": " + shown(str(status["trouble"]), 300)
    checks = [Check("daemon", OK, text, why) if state == "ok" else Check("daemon", WARN, text, why, "clawmetry status")]
    checks += _target(status)
    return checks + _queue(ground, status)


def _target(status: dict[str, Any]) -> list[Check]:
    target = status.get("target") or {}
    state = shown(str(target.get("state")))
    if state == "ok":
        return []
    paused = state == "paused"
    text = "%s: %s" % (state, shown(str(target.get("reason")), 300))
    why = "what is queued waits for it"
    return [Check("target", FAIL if paused else WARN, text, why, "check the API key" if paused else "clawmetry status")]


def _queue(ground: Ground, status: dict[str, Any]) -> list[Check]:
    queue = status.get("queue") or {}
    waiting, most = int(queue.get("pending_bytes") or 0), ground.settings.queue_max_bytes
    text = "%s envelopes, %d bytes of %d" % (shown(str(queue.get("pending"))), waiting, most)
    why = "when it is full, reading pauses; the transcripts themselves are the buffer then"
    full = waiting >= FULL * most
    checks = [Check("queue", WARN if full else OK, text, why, "clawmetry status, and see to the ingest" if full else "")]
    for name in ("quarantined", "dead_letters"):
        if status.get(name):
            step = "clawmetry dead-letters" if name == "dead_letters" else "clawmetry status --json"
            checks.append(Check(name, WARN, str(status[name]), "these records were not delivered", step))
    return checks


def others(ground: Ground) -> list[Check]:
    """ClawMetry's own client on the same data: everything would be uploaded twice."""
    running: list[str] = []
    proc = ground.path("/proc")
    for pid, elsewhere in upstream.processes(proc):
        running.append("process %d%s" % (pid, " (in a container)" if elsewhere else ""))
    homes = upstream.find_homes(root=ground.root, homes=_homes(ground), env=ground.env, euid=ground.euid)
    if ground.has_systemd:
        try:
            if ground.runner(["systemctl", "is-active", upstream.UNIT]).rc == 0:
                running.append(upstream.UNIT)
        except CommandError:
            pass
    why = "two daemons on the same transcripts upload everything twice, under two names"
    if running:
        text = "ClawMetry's own client runs here as well: " + ", ".join(running[:10])
        inside = all("container" in name for name in running)
        step = "remove clawmetry from that sandbox" if inside else "clawmetry adopt --dry-run, then clawmetry adopt --stop-old"
        return [Check("second daemon", WARN, text, why, step)]
    if homes:
        text = "none runs; left by ClawMetry's own client: " + ", ".join(map(shown, homes[:5]))
        return [Check("second daemon", OK, text, why)]
    return [Check("second daemon", OK, "none", why)]


def _homes(ground: Ground) -> Any:
    homes = ground.settings.homes
    return homes if isinstance(homes, str) else list(homes)


def version(ground: Ground) -> list[Check]:
    """Running daemon, this program, and the release the link names: they part after half an upgrade."""
    seen = {"this program": VERSION}
    installed = _installed(ground)
    if installed is not None:
        seen["installed release"] = installed
    running = (ground.status or {}).get("version")
    if isinstance(running, str):
        seen["running daemon"] = shown(running, 40)
    text = ", ".join("%s %s" % item for item in seen.items())
    why = "after an upgrade the daemon runs the old release until it is restarted"
    if len(set(seen.values())) == 1:
        return [Check("version", OK, text, why)]
    if installed is not None and isinstance(running, str) and running != installed:
        return [Check("version", WARN, text, why, "systemctl restart clawmetry")]
    return [Check("version", WARN, text, "this program is not the one that is installed", "run /usr/local/bin/clawmetry doctor")]


def _installed(ground: Ground) -> Optional[str]:
    try:
        return shown(os.path.basename(os.readlink(ground.path(CURRENT))), 40)
    except OSError:
        return None
