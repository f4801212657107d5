# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Host and sandboxes as plain data: the Ansible facts. (What ClawMetry's own snapshot carries besides is cloud.py's.)

Pure: takes what the other rooms found and returns JSON-serialisable dictionaries. What is not
known is None with a reason beside it; no value is a constant that was not looked at.
Shape: design.md "Facts".
"""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any, Mapping, Optional, Sequence

from .errors import shown
from .hostinfo import HostInfo
from .model import LAYERS, RUNTIMES, Discovery, Layer, Runtime, Sandbox, Survey

SCHEMA_VERSION = 1
METADATA_KEYS = (
    "sandbox.name",
    "sandbox.status",
    "sandbox.type",
    "inference.provider",
    "inference.model",
    "security.sandbox_enabled",
    "security.network_policy",
)
# Facts stay small: a few words on where a sandbox's row comes from, and on what contradicted it.
MAX_EVIDENCE = 12
MAX_EVIDENCE_CHARS = 160


def has_state(survey: Optional[Survey]) -> bool:
    """Did reading find an OpenClaw state directory? That is what confirms a mere candidate."""
    return survey is not None and survey.readable and bool(survey.agents or survey.memory_files or survey.store != "none")


def reported(sandboxes: Sequence[Sandbox], surveys: Mapping[str, Survey]) -> list[Sandbox]:
    """Return the sandboxes worth the name: confirmed by their runtime or by their state directory."""
    return [box for box in sandboxes if box.confirmed or has_state(surveys.get(box.uid))]


def _confirmed(runtime: Runtime, boxes: Sequence[Sandbox], surveys: Mapping[str, Survey]) -> Runtime:
    """Return RUNTIME, and OpenClaw as present where a sandbox holds its state: discovery alone does not look that far."""
    if runtime.name != "openclaw" or runtime.present:
        return runtime
    evidence = []
    for box in boxes:
        survey = surveys.get(box.uid)
        if survey is not None and has_state(survey) and survey.other_agent is None:
            evidence.append("state directory in sandbox %s" % shown(box.name))
    return replace(runtime, present=True, evidence=tuple(evidence[:10])) if evidence else runtime


def default_of(boxes: Sequence[Sandbox]) -> Optional[Sandbox]:
    """Return the one marked as default, else the first: a candidate that was not confirmed may have held the mark."""
    return next((box for box in boxes if box.default), boxes[0] if boxes else None)


def facts(host: HostInfo, discovery: Discovery, surveys: Mapping[str, Survey], sync: Optional[Mapping[str, Any]] = None) -> dict[str, Any]:
    """Return the facts of ``clawmetry_snapshot``; ``surveys`` maps Sandbox.uid to what reading it told."""
    boxes = reported(discovery.sandboxes, surveys)
    default = default_of(boxes)
    warnings = list(discovery.warnings)
    if host.in_sandbox:
        warnings.append("running inside a sandbox: its agent can read and change what the daemon keeps; install it on the host")
    elif host.in_chroot and not host.in_container:
        warnings.append("running in a chroot: users, homes and engine sockets outside of it are not seen")
    elif host.in_sandbox is None:
        warnings.append("could not tell whether this is a sandbox: " + "; ".join(host.evidence))
    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "node": {
            "id": host.node_id or host.hostname,
            "hostname": host.hostname,
            "os": host.os,
            "arch": host.arch,
            "machine_id_hash": host.machine_id_hash,
        },
        "runtimes": {runtime.name: _runtime(_confirmed(runtime, boxes, surveys)) for runtime in discovery.runtimes},
        "deployment": {"mode": "sandbox" if host.in_sandbox else "host", "recommended": "host", "warnings": warnings},
        "sandboxes": [_sandbox(box, surveys.get(box.uid), is_default=box is default) for box in boxes],
        "metadata": metadata(default),
        "topology": {layer.name: _layer(layer) for layer in discovery.topology},
        "blueprint": _layer(discovery.blueprint) if discovery.blueprint is not None else None,
    }
    if sync is not None:
        result["sync"] = dict(sync)
    return result


def unknown(reason: str) -> dict[str, Any]:
    """Return facts that have every key and tell nothing, because of REASON: what a later task reads is there on failure too."""
    untold = {"present": None, "evidence": [reason]}
    return {
        "schema_version": SCHEMA_VERSION,
        "node": dict.fromkeys(("id", "hostname", "os", "arch", "machine_id_hash")),
        "runtimes": {name: {**untold, "version": None, "path": None, "user": None} for name in RUNTIMES},
        "deployment": {"mode": None, "recommended": None, "warnings": [reason]},
        "sandboxes": [],
        "metadata": metadata(None),
        "topology": {name: dict(untold) for name in LAYERS},
        "blueprint": dict(untold),
    }


def metadata(box: Optional[Sandbox]) -> dict[str, Any]:
    """Return the flat keys the cloud stores; every key is always there, None when it is not known."""
    if box is None:
        return dict.fromkeys(METADATA_KEYS)
    values = (
        box.name,
        box.status,
        box.type,
        box.inference.provider,
        box.inference.model,
        box.security.sandbox_enabled,
        box.security.network_policy,
    )
    return dict(zip(METADATA_KEYS, values))


def _runtime(runtime: Runtime) -> dict[str, Any]:
    return {
        "present": runtime.present,
        "version": runtime.version,
        "path": runtime.path,
        "user": runtime.user,
        "evidence": list(runtime.evidence),
    }


def _layer(layer: Layer) -> dict[str, Any]:
    return {"present": layer.present, **dict(layer.details), "evidence": _short(layer.evidence)}


def _short(evidence: Sequence[str]) -> list[str]:
    return [text if len(text) <= MAX_EVIDENCE_CHARS else text[: MAX_EVIDENCE_CHARS - 3] + "..." for text in evidence[:MAX_EVIDENCE]]


def _sandbox(box: Sandbox, survey: Optional[Survey], *, is_default: bool) -> dict[str, Any]:
    policies = box.security.policies
    reasons = [text for text in (box.reason, survey.reason if survey else None) if text]
    if survey is None and not reasons:
        reasons.append("not read yet")
    return {
        "name": box.name,
        "id": box.id,
        "type": box.type,
        "status": box.status,
        "phase_source": box.phase_source,
        "gateway": box.gateway,
        "workspace": box.workspace,
        # Whoever has an OpenClaw state directory runs OpenClaw, even if no registry says so; a registry that says nothing means OpenClaw.
        "agent": (survey.other_agent if survey else None) or box.agent or ("openclaw" if has_state(survey) else None),
        "agent_version": box.agent_version,
        "driver": box.driver,
        "messaging": None if box.messaging is None else list(box.messaging),
        "image": box.image,
        "default": is_default,
        "inference": {"provider": box.inference.provider, "model": box.inference.model},
        "security": {
            "sandbox_enabled": box.security.sandbox_enabled,
            "network_policy": box.security.network_policy,
            "policies": None if policies is None else list(policies),
        },
        "store": survey.store if survey and (survey.readable or survey.other_agent) else None,
        "agents": list(survey.agents) if survey and survey.readable else None,
        "sessions": _sessions(survey),
        "route": survey.route if survey else None,
        "readable": survey.readable if survey else None,
        "reason": "; ".join(dict.fromkeys(reasons)) or None,
        "evidence": _short(box.evidence),
    }


def _sessions(survey: Optional[Survey]) -> dict[str, Any]:
    """Unreadable is not empty: without a readable survey the counts are unknown."""
    if survey is None or not survey.readable:
        return {"count": None, "bytes": None, "last_activity": None}
    return {"count": survey.session_count, "bytes": survey.session_bytes, "last_activity": iso(survey.last_activity)}


def iso(epoch_s: Optional[float]) -> Optional[str]:
    """Return ``2026-11-21T20:30:00Z``, None for None and for a time no calendar has (a sandbox sets its files' times)."""
    if epoch_s is None:
        return None
    try:
        return datetime.datetime.fromtimestamp(epoch_s, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return None
