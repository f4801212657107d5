# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Checks, each with what was seen, why it matters and the command to run. Reads only.

Levels: ok, warn, fail. Exit code of ``clawmetry doctor``: 0 all ok, 1 warnings, 2 failures.
"""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, dataclass
from typing import Any, Callable, Mapping, Optional
from urllib.parse import urlsplit

from . import control, hostinfo, secretfile
from .config import Settings, load
from .discover import discover
from .errors import ClawmetryError, shown
from .holding import survey_all
from .seal import is_passphrase

PROBE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Check:
    name: str
    level: str  # ok | warn | fail
    seen: str
    why: str = ""
    next_step: str = ""


def run(config_path: Optional[str], env: Mapping[str, str]) -> list[Check]:
    """Return every check that could be made, in the order data flows."""
    try:
        settings = load(config_path, env)
    except ClawmetryError as exc:
        return [Check("config", "fail", str(exc), "the daemon will not start with it", exc.next_step or "clawmetry check-config")]
    checks = [Check("config", "ok", settings.path or "no file; defaults")]
    for check in (_place, _keys, _sandboxes, _ingest, _state):
        checks += _guarded(check, settings, env)
    return checks


def _guarded(check: Callable[[Settings, Mapping[str, str]], list[Check]], settings: Settings, env: Mapping[str, str]) -> list[Check]:
    try:
        return check(settings, env)
    except (ClawmetryError, OSError) as exc:
        return [Check(check.__name__.strip("_"), "fail", shown(str(exc), 600))]


def _place(settings: Settings, env: Mapping[str, str]) -> list[Check]:
    host = hostinfo.gather(env=env)
    seen = "; ".join(host.evidence) or "nothing that says so"
    if host.in_sandbox:
        why = "its agent can read the keys and change what is sent, and every upload needs an egress rule"
        return [Check("mode", "warn", "running inside a sandbox: " + seen, why, "install on the host; docs/deployment.md")]
    if host.in_sandbox is None:
        return [Check("mode", "warn", "could not tell whether this is a sandbox: " + seen)]
    return [Check("mode", "ok", "on the host: sandboxes need no egress rule for this daemon")]


def _keys(settings: Settings, env: Mapping[str, str]) -> list[Check]:
    checks = []
    try:
        text = secretfile.encryption_key_text(settings, env)
        if is_passphrase(text):
            checks.append(
                Check("encryption key", "warn", "a passphrase, not a key", "it is turned into a key without salt", "clawmetry keygen")
            )
        else:
            checks.append(Check("encryption key", "ok", "readable by us alone"))
    except ClawmetryError as exc:
        checks.append(Check("encryption key", "fail", str(exc), "no key, no upload", exc.next_step))
    if not settings.is_archive:
        try:
            present = secretfile.api_key(settings, env)
            checks.append(
                Check("api key", "ok", "readable by us alone")
                if present
                else Check("api key", "fail", "none", "the ingest needs one", "put it into api_key_file")
            )
        except ClawmetryError as exc:
            checks.append(Check("api key", "fail", str(exc), "the ingest needs it", exc.next_step))
    return checks


def _sandboxes(settings: Settings, env: Mapping[str, str]) -> list[Check]:
    found = discover(
        enabled=settings.discover,
        docker_host=settings.docker_host,
        may_exec="exec" in settings.routes,
        homes=settings.homes if settings.homes == "auto" else list(settings.homes),
        include=settings.include,
        exclude=settings.exclude,
        only=settings.only,
        env=dict(settings.environment),
    )
    checks = []
    for runtime in found.runtimes:
        if runtime.name in settings.discover and (runtime.present is not False or runtime.name == "docker"):
            word = {True: "present", False: "absent", None: "unknown"}[runtime.present]
            level = "warn" if runtime.present is None else "ok"
            checks.append(Check("runtime " + runtime.name, level, "%s: %s" % (word, "; ".join(runtime.evidence) or "no evidence")))
    surveys = survey_all(settings, found)
    seen_any = False
    for sandbox in found.sandboxes:
        survey = surveys[sandbox.uid]
        if not sandbox.confirmed and not (survey.readable and survey.agents):
            continue
        seen_any = True
        label = "sandbox " + sandbox.name
        if survey.readable:
            note = "; " + survey.reason if survey.reason else ""
            checks.append(
                Check(label, "warn" if survey.reason else "ok", "%d sessions through %s%s" % (survey.session_count, survey.route, note))
            )
        else:
            checks.append(
                Check(
                    label,
                    "fail",
                    survey.reason or "not readable",
                    "its transcripts are not read",
                    "sudo clawmetry doctor, or rerun the daemon role",
                )
            )
    if not seen_any:
        checks.append(Check("sandboxes", "warn", "none found", "there is nothing to sync", "clawmetry snapshot"))
    checks += [Check("discovery", "warn", text) for text in found.warnings]
    return checks


def _ingest(settings: Settings, env: Mapping[str, str]) -> list[Check]:
    if settings.is_archive:
        return [Check("ingest", "ok", "local encrypted archive at " + settings.archive_dir)]
    parts = urlsplit(settings.proxy or settings.ingest_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    where = "%s:%d" % (parts.hostname, port)
    try:
        with socket.create_connection((parts.hostname or "", port), PROBE_TIMEOUT_S) as connection:
            if parts.scheme == "https" and not settings.proxy:
                from .ship.https import tls_context

                with tls_context(settings.ca_file).wrap_socket(connection, server_hostname=parts.hostname) as wrapped:
                    return [Check("ingest", "ok", "%s answers with %s" % (where, wrapped.version()))]
        return [Check("ingest", "ok", where + " takes connections")]
    except OSError as exc:
        return [
            Check(
                "ingest",
                "fail",
                "%s: %s" % (where, shown(str(exc))),
                "envelopes wait in the queue meanwhile",
                "check DNS, proxy and ca_file",
            )
        ]


def _state(settings: Settings, env: Mapping[str, str]) -> list[Check]:
    answer = control.ask(settings.socket_path, {"op": "status"})
    if answer is None:
        if not os.path.isdir(settings.state_dir):
            return [Check("daemon", "warn", "not running, and no state yet", "nothing is synced", "clawmetry run, or the daemon role")]
        return [Check("daemon", "warn", "not running", "nothing is synced meanwhile", "systemctl status clawmetry, or clawmetry run")]
    queue: dict[str, Any] = answer.get("queue", {})
    checks = [
        Check(
            "daemon",
            "ok" if answer.get("state") == "ok" else "warn",
            "pid %s, state %s" % (answer.get("pid"), answer.get("state")),
            next_step="clawmetry status",
        )
    ]
    full = queue.get("pending_bytes", 0) >= 0.8 * settings.queue_max_bytes
    checks.append(
        Check("queue", "warn" if full else "ok", "%s envelopes, %s bytes wait" % (queue.get("pending"), queue.get("pending_bytes")))
    )
    for name, cure in (("quarantined", "clawmetry status --json"), ("dead_letters", "clawmetry status --json")):
        if answer.get(name):
            checks.append(Check(name, "warn", str(answer[name]), "these records were not delivered", cure))
    return checks


def exit_code(checks: list[Check]) -> int:
    levels = {check.level for check in checks}
    return 2 if "fail" in levels else 1 if "warn" in levels else 0


def as_json(checks: list[Check]) -> dict[str, Any]:
    return {"schema_version": 1, "exit_code": exit_code(checks), "checks": [asdict(check) for check in checks]}
