# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""What is there to be read: runtimes, the engine, every sandbox with its route."""

from __future__ import annotations

from ..dockerapi import EngineError
from ..errors import shown
from .check import FAIL, OK, WARN, Check, Ground


def runtimes(ground: Ground) -> list[Check]:
    checks = []
    for runtime in ground.found.runtimes:
        if runtime.name not in ground.settings.discover or (runtime.present is False and runtime.name != "docker"):
            continue
        word = {True: "present", False: "absent", None: "unknown"}[runtime.present]
        version = " " + shown(runtime.version, 40) if runtime.version else ""
        seen = "%s%s: %s" % (word, version, "; ".join(shown(text) for text in runtime.evidence) or "no evidence")
        why = "its sandboxes are found through it"
        if runtime.present is None:
            checks.append(Check("runtime " + runtime.name, WARN, seen, why, "sudo clawmetry doctor"))
        else:
            checks.append(Check("runtime " + runtime.name, OK, seen, why))
    why = "what cannot be asked may hide a sandbox"
    checks += [Check("discovery", WARN, shown(text, 400), why, "clawmetry snapshot --json") for text in ground.found.warnings]
    return checks


_CURES = {
    "denied": "add the service's user to the engine's group: rerun the daemon role with clawmetry_daemon_join_docker_group",
    "refused": "systemctl status docker",
    "hangs": "systemctl status docker; journalctl -u docker -n 50",
    "unsupported": "set docker_host to unix:///path of the socket",
}


def engine(ground: Ground) -> list[Check]:
    """Does the engine answer us? Only where a runtime that lives on it is to be looked for."""
    if not {"docker", "podman", "openshell", "nemoclaw"} & set(ground.settings.discover):
        return []
    why = "it tells which containers there are; without it they are not found"
    host = ground.settings.docker_host
    try:
        version = ground.engine(host).version()
    except EngineError as exc:
        if exc.kind == "absent":
            return [Check("engine", OK, "no socket at %s: no containers to ask for" % host, why)]
        seen = "%s%s" % (exc.what, ": " + exc.cause if exc.cause else "")
        return [Check("engine", FAIL, "%s (%s)" % (seen, host), why, _CURES.get(exc.kind, "docker version"))]
    return [Check("engine", OK, "%s answers at %s" % (shown(str(version.get("Version", "an engine")), 40), host), why)]


def sandboxes(ground: Ground) -> list[Check]:
    checks = []
    unread = (ground.status or {}).get("unreadable", {})
    for box in ground.found.sandboxes:
        survey = ground.surveys[box.uid]
        if not box.confirmed and not (survey.readable and survey.agents):
            continue
        name = "sandbox " + shown(box.name, 60)
        why = "its transcripts and memory files are read through this route"
        if not survey.readable and survey.route is not None:
            text = "reached through %s, but %s" % (survey.route, survey.reason or "there is nothing to read")
            other = survey.other_agent is not None
            because = "of OpenClaw alone transcripts are read" if other else "an agent that has not run yet has written nothing"
            checks.append(Check(name, WARN, text, because, "clawmetry snapshot --json"))
            continue
        if not survey.readable:
            step = "sudo clawmetry doctor, or rerun the daemon role"
            checks.append(Check(name, FAIL, survey.reason or "not readable", "its transcripts are not read", step))
            continue
        seen = "%d sessions (%s) through %s" % (survey.session_count, survey.store, survey.route)
        if box.uid in unread:
            text = "%s for this process, but the service says: %s" % (seen, shown(str(unread[box.uid]), 300))
            checks.append(Check(name, FAIL, text, "its transcripts are not read", "rerun the daemon role"))
        elif survey.reason:
            checks.append(Check(name, WARN, "%s; %s" % (seen, survey.reason), why, "clawmetry snapshot --json"))
        else:
            checks.append(Check(name, OK, seen, why))
    if not checks:
        chosen = ground.settings.exclude or ground.settings.include != ("*",)
        text = "none found" + (" that include and exclude let through" if chosen else "")
        return [Check("sandboxes", WARN, text, "there is nothing to sync", "clawmetry snapshot")]
    return checks
