# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""kubectl in OpenShell's cluster container (0.0.1 to 0.0.36): which pods there are.

It is run by the engine's exec, so only where the operator allows route exec; one verb, get, with fixed
arguments. Imported by name, for it need not travel with the snapshot module (P7).
Source: reference/openshell.md §2 A.
"""

from __future__ import annotations

import json
import re

from ..dockerapi import EngineError, field
from ..dockerexec import ExecEngine
from ..read.execroute import CONTAINER, KUBECTL
from .k3s import NAME, Cluster, Told

TIMEOUT_S = 10.0
MAX_BYTES = 8 << 20
MAX_PODS = 500
_UID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def parse_pods(data: bytes) -> list[Told]:
    """Return the pods of ``{"items": [{"metadata": {"name", "uid", "labels"}, "spec": {"containers": [{"name"}]}, "status": {"phase"}}]}``
    that have a container called agent, or OpenShell's label. Raises ValueError when it is no such document."""
    try:
        document = json.loads(data)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    items = field(document, "items")
    if not isinstance(items, list):
        raise ValueError("no list of pods")
    found = []
    for item in items[:MAX_PODS]:
        name, uid, labels = field(item, "metadata", "name"), field(item, "metadata", "uid"), field(item, "metadata", "labels")
        listed, phase = field(item, "spec", "containers"), field(item, "status", "phase")
        if not isinstance(name, str) or not NAME.fullmatch(name) or not isinstance(uid, str) or not _UID.fullmatch(uid):
            continue
        managed = field(labels, "openshell.ai/managed-by") == "openshell"
        sandbox_id = field(labels, "openshell.ai/sandbox-id")
        names = [field(each, "name") for each in listed[:50]] if isinstance(listed, list) else []
        if CONTAINER in names:
            said = phase.lower() if isinstance(phase, str) and phase.isalpha() and len(phase) < 20 else ""
            found.append(Told(name, uid, said, sandbox_id if isinstance(sandbox_id, str) and NAME.fullmatch(sandbox_id) else None, managed))
    return found


def ask(cluster: Cluster) -> list[Told]:
    """Ask for the pods of one cluster container. Raises EngineError."""
    data = bytearray()
    with ExecEngine(cluster.engine).run(cluster.container_id, (*KUBECTL, "get", "pods", "-o", "json"), TIMEOUT_S) as read:
        while True:
            piece = read(65536)
            if not piece:
                break
            data += piece
            if len(data) > MAX_BYTES:
                raise EngineError("broken", "kubectl printed more than %d bytes" % MAX_BYTES)
    try:
        return parse_pods(bytes(data))
    except ValueError as exc:
        raise EngineError("broken", "kubectl did not list pods", cause=str(exc)[:100]) from exc
