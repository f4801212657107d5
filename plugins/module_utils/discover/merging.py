# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""One row per sandbox: joins what gateways list with what containers and registries showed.

Pure. A gateway's list gives a container its gateway and workspace by the sandbox id, which labels
carry too; a name joins only where there is one of it on either side. What runs is told by the
engine, not by a phase, which may be stuck at Error for days (reference/openshell.md §3, §9).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import AbstractSet, Mapping, Optional, Sequence

from ..errors import shown
from ..model import Inference, Sandbox
from .openshellcli import Answer, Told

# OpenShell's phases as our statuses; Unknown is no news.
_STATUS = {
    "ready": "running",
    "provisioning": "provisioning",
    "starting": "starting",
    "stopping": "stopping",
    "stopped": "stopped",
    "deleting": "deleting",
    "error": "error",
    "completed": "stopped",
}
Owners = Mapping[str, AbstractSet[str]]
_ALIVE = ("running", "provisioning", "starting", "stopping", "deleting")


def status_of(phase: Optional[str]) -> Optional[str]:
    """Return the status for a phase word (``Ready``), None for one that says nothing (``Unknown``, a newer word)."""
    return _STATUS.get((phase or "").lower())


def join(
    containers: Sequence[Sandbox], answers: Sequence[Answer], owners: Owners
) -> tuple[list[Sandbox], list[tuple[Answer, Told]], list[str]]:
    """Return the containers with what their gateway tells of them, the listed sandboxes that are none of them, and warnings.

    ``owners``: whose registries name a sandbox, as homes by name. Another user's gateway is not heard about it: a user's
    CLI says what that user wants.
    """
    listed, warnings = _rows(answers, owners)
    names = Counter(told.listed.name for _answer, told in listed)
    by_id: dict[str, list[Sandbox]] = {}
    by_name: dict[str, list[Sandbox]] = {}
    for box in containers:
        if box.confirmed and box.type == "nemoclaw":
            by_name.setdefault(box.name, []).append(box)
            if box.id is not None:
                by_id.setdefault(box.id, []).append(box)
    boxes = {box.uid: box for box in containers}
    left: list[tuple[Answer, Told]] = []
    for answer, told in listed:
        row = told.listed
        # A pod's own name and gateway are the kernel's and the engine's word; the id it has is Kubernetes', not OpenShell's.
        pods = [box for box in by_name.get(row.name, ()) if box.uid.startswith("k3s:") and box.gateway == answer.gateway.name]
        matches = pods or (by_name.get(row.name, []) if row.id is None else by_id.get(row.id, []))
        stranger = bool(owners.get(row.name)) and answer.home not in owners[row.name]
        alone = pods or row.id is not None or names[row.name] == 1
        if len(matches) == 1 and matches[0].name == row.name and alone and not stranger:
            boxes[matches[0].uid] = _joined(boxes[matches[0].uid], answer, told)
            continue
        if matches:
            why = "another user registered it" if stranger else _why(matches, row.name)
            warnings.append("%s: listed by gateway %s, but %s; not joined" % (shown(row.name), answer.gateway.name, why))
        left.append((answer, told))
    return list(boxes.values()), left, warnings


def _why(matches: Sequence[Sandbox], name: str) -> str:
    if len(matches) > 1:
        return "%d containers claim it" % len(matches)
    return "the container with its id is labelled %s" % shown(matches[0].name) if matches[0].name != name else "several are listed"


def add(boxes: Sequence[Sandbox], left: Sequence[tuple[Answer, Told]]) -> list[Sandbox]:
    """Return BOXES and the listed sandboxes without a container: joined to their registry row, else as rows of their own."""
    rows = {box.uid: box for box in boxes}
    for answer, told in left:
        registered = [
            box
            for box in rows.values()
            if box.phase_source == "registry" and box.name == told.listed.name and box.gateway == answer.gateway.name
        ]
        if len(registered) > 1:
            registered = [box for box in registered if box.evidence[0].startswith("registry %s/" % answer.home)]
        fresh = answer.error is None
        status = status_of(told.listed.phase) if fresh else None
        if len(registered) == 1:
            box = registered[0]
            joined = _joined(replace(box, status=status, phase_source="openshell" if status else "registry"), answer, told)
            reason = "listed by OpenShell and registered; no container of it seen here" if fresh else box.reason
            rows[box.uid] = replace(joined, id=told.listed.id or box.id, reason=reason)
            continue
        uid = "openshell:%s:%s:%s" % (answer.gateway.name, told.listed.workspace or "default", told.listed.id or told.listed.name)
        if uid in rows:
            uid += "@" + answer.home
        where = "on a remote gateway" if answer.gateway.remote else "no container of it seen here"
        box = Sandbox(
            uid=uid,
            name=told.listed.name,
            type="nemoclaw",
            id=told.listed.id,
            status=status,
            phase_source="openshell",
            confirmed=True,
            reason="listed by OpenShell; " + where,
        )
        rows[uid] = _joined(box, answer, told)
    return list(rows.values())


def _rows(answers: Sequence[Answer], owners: Owners) -> tuple[list[tuple[Answer, Told]], list[str]]:
    """Return every listed sandbox once: two users may have registered one gateway.

    Of several who tell of one id, the user who registered a sandbox of that name is believed; of others none, if they contradict.
    """
    rows: list[tuple[Answer, Told]] = []
    by_id: dict[str, list[tuple[Answer, Told]]] = {}
    for answer in answers:
        for told in answer.sandboxes or ():
            if told.listed.id is None:
                rows.append((answer, told))
            else:
                by_id.setdefault(told.listed.id, []).append((answer, told))
    warnings: list[str] = []
    for identity, tellers in by_id.items():
        owned = [pair for pair in tellers if pair[0].home in owners.get(pair[1].listed.name, ())]
        believed = owned or tellers
        said = {(answer.gateway.name, told.listed.name, told.listed.workspace) for answer, told in believed}
        if len(said) == 1:
            rows.append(believed[0])
        else:
            warnings.append("sandbox id %s: gateways contradict each other about it; none is believed" % shown(identity, 80))
    return rows, warnings[:5]


def _joined(box: Sandbox, answer: Answer, told: Told) -> Sandbox:
    """What the container shows stays; what only the gateway knows is added; what contradicts is said."""
    phase = told.listed.phase or "not told"
    said = status_of(phase)
    evidence = ["openshell sandbox list: gateway %s, phase %s" % (answer.gateway.name, phase)]
    if answer.error is not None:
        evidence[0] += " (before it stopped answering: %s)" % answer.error
    running = box.container is not None and box.container.running
    if running and said is not None and said not in _ALIVE:
        evidence.append("the phase is not believed: the container runs")
    security, policy = box.security, told.policy
    if policy is not None and policy.networks is not None:
        security = replace(
            security,
            network_policy=policy.in_force,
            policies=policy.networks if security.policies is None else security.policies,
        )
        text = "policy version %s, %s, %d network entries" % (policy.version, policy.status or "status unknown", len(policy.networks))
        evidence.append(text + (": " + ", ".join(policy.networks[:5]) if policy.networks else ""))
    known = box.status is not None or answer.error is not None or said is None
    return replace(
        box,
        status=box.status if known else said,
        phase_source=box.phase_source if known else "openshell",
        gateway=box.gateway or answer.gateway.name,
        workspace=box.workspace or told.listed.workspace,
        inference=answer.inference if answer.inference is not None and box.inference == Inference() else box.inference,
        security=replace(security, sandbox_enabled=True),
        cli=answer.place_of(told),
        evidence=box.evidence + tuple(evidence),
    )
