# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fixed shape of the facts, written down once more from design.md: every key, its types, and a reason beside each null."""

from __future__ import annotations

from typing import Any

RUNTIMES = ["nemoclaw", "openshell", "docker", "podman", "k3s", "openclaw"]
FLAT = [
    "sandbox.name", "sandbox.status", "sandbox.type", "inference.provider", "inference.model", "security.sandbox_enabled",
    "security.network_policy",
]  # fmt: skip
SANDBOX: dict[str, tuple[type, ...]] = {
    "name": (str,), "id": (str,), "type": (str,), "status": (str,), "phase_source": (str,), "gateway": (str,), "workspace": (str,),
    "agent": (str,), "image": (str,), "default": (bool,), "inference": (dict,), "security": (dict,), "store": (str,),
    "agents": (list,), "sessions": (dict,), "route": (str,), "readable": (bool,), "reason": (str,),
}  # fmt: skip
NEVER_NULL = ("name", "type", "default", "inference", "security", "sessions")
SYNC: dict[str, tuple[type, ...]] = {
    "ran": (bool,), "ok": (bool,), "events": (int,), "batches": (int,), "bytes": (int,), "pending": (int,), "quarantined": (int,),
    "duration_ms": (int,), "errors": (list,),
}  # fmt: skip


def problems(facts: dict[str, Any]) -> list[str]:
    """Return what of FACTS is not as it was promised; [] when all is."""
    found: list[str] = []

    def wants(what: str, value: Any, *kinds: type, null: bool = True) -> None:
        if not (null and value is None) and type(value) not in kinds:
            found.append("%s is %r" % (what, value))

    def keys(what: str, value: Any, *names: str) -> dict[str, Any]:
        wants(what, value, dict, null=False)
        value = value if isinstance(value, dict) else {}
        found.extend("%s has no %s" % (what, name) for name in names if name not in value)
        return {name: value.get(name) for name in names}

    if facts.get("schema_version") != 1:
        found.append("schema_version is %r" % facts.get("schema_version"))
    for name, value in keys("node", facts.get("node"), "id", "hostname", "os", "arch", "machine_id_hash").items():
        wants("node." + name, value, str)
    for name, runtime in keys("runtimes", facts.get("runtimes"), *RUNTIMES).items():
        told = keys("runtimes." + name, runtime, "present", "version", "path", "user", "evidence")
        wants(name + ".present", told["present"], bool)
        wants(name + ".evidence", told["evidence"], list, null=False)
        for part in ("version", "path", "user"):
            wants("%s.%s" % (name, part), told[part], str)
        if not told["evidence"]:
            found.append("%s is %r without evidence" % (name, told["present"]))
    told = keys("deployment", facts.get("deployment"), "mode", "recommended", "warnings")
    if told["mode"] not in ("host", "sandbox", None) or told["recommended"] not in ("host", None):
        found.append("deployment is %r" % told)
    wants("warnings", told["warnings"], list, null=False)
    flat = keys("metadata", facts.get("metadata"), *FLAT)
    if set(facts.get("metadata") or ()) != set(FLAT) or any(isinstance(value, (dict, list)) for value in flat.values()):
        found.append("metadata is %r" % facts.get("metadata"))
    wants("sandboxes", facts.get("sandboxes"), list, null=False)
    for row in facts.get("sandboxes") or ():
        found.extend(_sandbox_problems(row, wants, keys))
    boxes = facts.get("sandboxes") or []
    defaults = [row for row in boxes if row.get("default")]
    if len(defaults) != min(1, len(boxes)) or (defaults and flat["sandbox.name"] != defaults[0]["name"]):
        found.append("%d defaults among %d sandboxes, metadata of %r" % (len(defaults), len(boxes), flat["sandbox.name"]))
    if "sync" in facts:
        for name, value in keys("sync", facts["sync"], *SYNC).items():
            wants("sync." + name, value, *SYNC[name], null=False)
    return found


def _sandbox_problems(row: Any, wants: Any, keys: Any) -> list[str]:
    name = "sandbox %r" % (row.get("name") if isinstance(row, dict) else row)
    told = keys(name, row, *SANDBOX)
    for key, value in told.items():
        wants("%s %s" % (name, key), value, *SANDBOX[key], null=key not in NEVER_NULL)
    inference = keys(name + " inference", told["inference"], "provider", "model")
    security = keys(name + " security", told["security"], "sandbox_enabled", "network_policy", "policies")
    sessions = keys(name + " sessions", told["sessions"], "count", "bytes", "last_activity")
    for key, value in {**inference, "last_activity": sessions["last_activity"]}.items():
        wants("%s %s" % (name, key), value, str)
    for key in ("sandbox_enabled", "network_policy"):
        wants("%s %s" % (name, key), security[key], bool)
    wants(name + " policies", security["policies"], list)
    for key in ("count", "bytes"):
        wants("%s %s" % (name, key), sessions[key], int)
    found = []
    if told["type"] not in ("nemoclaw", "docker", "bare"):
        found.append("%s is of type %r" % (name, told["type"]))
    if told["store"] not in ("jsonl", "sqlite", "both", "none", None):
        found.append("%s has store %r" % (name, told["store"]))
    if told["readable"] is not True and not told["reason"]:
        found.append("%s is not readable without a reason" % name)
    return found
