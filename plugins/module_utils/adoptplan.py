# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""What adoption would write where, and what stands against it. Reads both sides and writes nothing.

Nothing of ours that differs is to be replaced: each such difference is a problem that is reported.
Source of the old side: reference/clawmetry.md §3 "Adopt a connected host".
"""

from __future__ import annotations

import base64
import json
import os
import time
from dataclasses import dataclass, field
from typing import Callable, Mapping, Optional

from . import control, peek, run, secretfile, upstream
from .config import CLOUD_URL, SYSTEM_CONFIG, USER_CONFIG, Settings, check_url, etc_dir, parse
from .errors import CommandError, ConfigError, StateError, shown
from .seal import parse_key

ADOPTED = "adopted"  # meta: the home that was taken over; cursors are imported once


@dataclass
class World:
    """What adoption touches besides files; replaced in tests."""

    runner: run.Runner = run.run
    proc: str = "/proc"
    systemd: str = "/run/systemd/system"
    kill: Callable[[int, int], None] = os.kill
    sleep: Callable[[float], None] = time.sleep


@dataclass
class Plan:
    """What would be written where, and what stands against it. Secrets are kept out of its repr."""

    old: upstream.Home
    settings: Settings
    config_path: str
    ingest_url: str
    api_key_path: str
    api_key: Optional[str] = field(default=None, repr=False)  # None: nothing to write
    key_text: Optional[str] = field(default=None, repr=False)
    config_text: Optional[bytes] = None
    node_id: Optional[str] = None
    cursors: Optional[upstream.Cursors] = None  # None: imported before
    running: bool = False
    steps: list[dict[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def step(self, name: str, result: str, detail: str) -> None:
        self.steps.append({"name": name, "result": result, "detail": detail})


def choose(home: Optional[str], env: Mapping[str, str]) -> str:
    """Return the .clawmetry directory to take over. Raises ConfigError when there is none, or more than one."""
    if home is not None:
        path = os.path.abspath(os.path.expanduser(home))
        inner = os.path.join(path, upstream.DIRECTORY)
        return inner if os.path.isdir(inner) else path
    found = upstream.find_homes(env=env, euid=os.geteuid())
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError("no home of ClawMetry's own client was found", next_step="clawmetry adopt --from HOME")
    raise ConfigError("more than one home was found", cause=", ".join(map(shown, found)), next_step="clawmetry adopt --from one of them")


def make_plan(settings: Settings, path: str, stop_old: bool, world: World) -> Plan:
    """Look at both sides and write nothing."""
    old = upstream.read_home(path)
    if not old.connected and not old.opted_out:
        raise ConfigError("nothing to take over: there is no config.json", where=shown(path), next_step="clawmetry adopt --from HOME")
    config_path = settings.path or (SYSTEM_CONFIG if os.geteuid() == 0 else os.path.expanduser(USER_CONFIG))
    url = settings.ingest_url if settings.is_archive else "file://" + settings.archive_dir
    if not old.opted_out:
        url = check_url("endpoint of the old client", old.endpoint) if old.endpoint else CLOUD_URL
    usual_key = os.path.join(etc_dir(config_path), "api_key")
    plan = Plan(old, settings, config_path, url, settings.api_key_file or usual_key)
    _plan_node(plan)
    _plan_api_key(plan)
    _plan_encryption_key(plan)
    _plan_config(plan)
    _plan_daemons(plan, stop_old, world)
    return plan


def _plan_node(plan: Plan) -> None:
    settings, old = plan.settings, plan.old
    kept = adopted = None
    if os.path.exists(settings.queue_path):
        kept = peek.meta(settings.queue_path, "node_id")
        adopted = peek.meta(settings.queue_path, ADOPTED)
    plan.node_id = old.node_id or settings.node_id or kept
    for ours, place in ((settings.node_id, "the configuration"), (kept, "the state directory")):
        if old.node_id and ours and ours != old.node_id:
            plan.problems.append("node id: %s says %s, the old client %s; decide for one" % (place, shown(ours), shown(old.node_id)))
    if old.node_id:
        plan.step("node id", "kept" if kept == old.node_id else "do", shown(old.node_id))
    if adopted:
        plan.step("cursors", "kept", "imported before, from %s" % shown(adopted))
        return
    plan.cursors = upstream.read_cursors(old.path)
    detail = "%d files, %d lines" % (len(plan.cursors.lines), sum(plan.cursors.lines.values()))
    plan.step("cursors", "do", detail if plan.cursors.lines else "none found: everything is sent once more")


def _plan_api_key(plan: Plan) -> None:
    if plan.old.api_key is None:
        if not plan.old.opted_out:
            plan.problems.append("config.json holds no API key; put it into %s (mode 0600)" % plan.api_key_path)
        return
    if not plan.old.api_key.isascii() or " " in plan.old.api_key:
        plan.problems.append("the API key in config.json is not one")
        return
    if os.path.lexists(plan.api_key_path):
        if secretfile.read_secret(plan.api_key_path, "API key") == plan.old.api_key:
            plan.step("API key", "kept", plan.api_key_path)
        else:
            plan.problems.append("%s holds another API key; move it away to take over the old one" % plan.api_key_path)
        return
    plan.api_key = plan.old.api_key
    plan.step("API key", "do", plan.api_key_path)


def _plan_encryption_key(plan: Plan) -> None:
    path = plan.settings.encryption_key_file
    ours = parse_key(secretfile.read_secret(path, "encryption key")) if os.path.lexists(path) else None
    if plan.old.key_text is None:
        if ours is not None:
            plan.step("encryption key", "kept", path)
        elif plan.old.connected:
            where = "the desktop's keychain (service clawmetry, user workspace-key:%s)" % shown(plan.old.node_id)
            plan.problems.append("config.json holds no encryption key: it is in %s; put it into %s" % (where, path))
        return
    # What the old client derives from a passphrase is the key; from here on it is written down as one.
    derived = parse_key(plan.old.key_text)
    if ours is None:
        plan.key_text = base64.urlsafe_b64encode(derived).decode("ascii")
        plan.step("encryption key", "do", path)
    elif ours == derived:
        plan.step("encryption key", "kept", path)
    else:
        cause = "what it has sealed opens with nothing else, so keep it"
        plan.problems.append("%s holds another encryption key; move it away to take over the old one (%s)" % (path, cause))


def _plan_config(plan: Plan) -> None:
    path = plan.config_path
    text, before = b"", {}
    if plan.settings.path is not None:
        with open(path, "rb") as stream:
            text = stream.read()
        before = parse(text)
    set_to = before.get("ingest_url")
    if set_to is not None and check_url("ingest_url", set_to) != plan.ingest_url:
        why = " (%s)" % plan.old.opted_out if plan.old.opted_out else ""
        plan.problems.append("%s has ingest_url %s, the old client's is %s%s; decide for one" % (path, set_to, plan.ingest_url, why))
        return
    if set_to is not None or plan.ingest_url == CLOUD_URL:
        plan.step("ingest", "kept", plan.ingest_url)
        return
    line = b"ingest_url: %s\n" % json.dumps(plan.ingest_url).encode("ascii")
    after = (text if not text or text.endswith(b"\n") else text + b"\n") + line
    if text.lstrip().startswith(b"{"):
        after = json.dumps({**before, "ingest_url": plan.ingest_url}, indent=2).encode("ascii") + b"\n"
    try:
        fits = parse(after) == {**before, "ingest_url": plan.ingest_url}
    except ConfigError:
        fits = False
    if not fits:
        plan.problems.append("%s cannot be added to by this program; write into it: %s" % (path, line.decode().strip()))
        return
    plan.config_text = after
    why = ", because of %s: the archive only" % plan.old.opted_out if plan.old.opted_out else ""
    plan.step("ingest", "do", "%s: ingest_url %s%s" % (path, plan.ingest_url, why))


def _plan_daemons(plan: Plan, stop_old: bool, world: World) -> None:
    try:
        ours = control.ask(plan.settings.socket_path, {"op": "status"})
    except StateError as exc:
        ours = {"pid": str(exc)}
    if ours is not None and any(step["result"] == "do" for step in plan.steps):
        plan.problems.append("our own daemon runs (%s); stop it first: systemctl stop clawmetry" % shown(str(ours.get("pid"))))
    pid = upstream.running_pid(plan.old.path, world.proc)
    plan.running = pid is not None or unit_is(world, "is-active")
    if stop_old:
        plan.step("old daemon", "do", "stopped and disabled")
    elif plan.running:
        text = "process %s" % pid if pid is not None else upstream.UNIT
        plan.problems.append("the old daemon still runs (%s) and would go on sending; add --stop-old to stop and disable it" % text)
    else:
        plan.step("old daemon", "kept", "not running; its unit is left as it is (--stop-old disables it)")


def unit_is(world: World, verb: str) -> bool:
    """Does systemctl say is-active, or is-enabled, of the old client's system unit?"""
    if not os.path.isdir(world.systemd):
        return False
    try:
        return world.runner(["systemctl", verb, upstream.UNIT]).rc == 0
    except CommandError:
        return False
