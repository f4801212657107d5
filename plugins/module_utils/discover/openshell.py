# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""OpenShell: what its labels, container names and images say, and whether it is on this host.

Labels come from the runtime but are not authenticated: they confirm that something is a sandbox
and give it a name to show; they never give it an identity. Source: reference/openshell.md §0-2
(driver-docker 0.0.37-0.0.111, podman driver, the 0.1.x pair of containers).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Mapping, Optional, Sequence

from ..model import Runtime
from .accounts import Account, Accounts, below
from .binaries import Lookups
from .names import clean

PREFIX = "openshell.ai/"
_GATEWAY_IMAGE = re.compile(r"(?:^|/)openshell/(?:cluster|gateway|supervisor)(?:[:@]|$)")
_GATEWAY_NAME = re.compile(r"openshell-cluster-.*|nemoclaw-openshell-gateway(?:-\d+)?|nemoclaw-nim-.*", re.DOTALL)
SANDBOX_IMAGES = "ghcr.io/nvidia/openshell-community/sandboxes/"
# Where OpenShell keeps keys, tokens and its own programs in a container: never read (contracts.md S).
_SECRET_PLACES = ("/etc/openshell", "/run/openshell", "/opt/openshell", "/.openshell")
# The kernel keeps 15 characters of a process name.
_GATEWAY_COMM = b"openshell-gatew"
_MAX_PROCESSES = 20_000


@dataclass(frozen=True)
class Labels:
    """What the labels of one container say. ``managed`` is True when the runtime's own marker is there."""

    managed: bool
    sandbox_id: Optional[str] = None
    name: Optional[str] = None
    namespace: Optional[str] = None
    workspace: Optional[str] = None


def parse_labels(labels: Mapping[str, object]) -> Optional[Labels]:
    """Return what OpenShell's labels say, None when there are none.

    Docker: ``openshell.ai/managed-by=openshell``; Podman: ``openshell.managed=true``; both with
    ``openshell.ai/sandbox-id``, ``-name``, ``-namespace`` and, from 0.0.88 on, ``-workspace``.
    """
    marked = labels.get(PREFIX + "managed-by") == "openshell" or labels.get("openshell.managed") == "true"
    if "openshell.managed" not in labels and not any(key.startswith(PREFIX) for key in labels):
        return None
    sandbox_id = clean(labels.get(PREFIX + "sandbox-id"))
    name = clean(labels.get(PREFIX + "sandbox-name"))
    return Labels(
        # A gateway's own container may carry the marker, but it is no sandbox and names none.
        managed=marked and (sandbox_id is not None or name is not None),
        sandbox_id=sandbox_id,
        name=name,
        namespace=clean(labels.get(PREFIX + "sandbox-namespace")),
        workspace=clean(labels.get(PREFIX + "sandbox-workspace")),
    )


def is_infrastructure(name: str, image: str, labels: Optional[Labels]) -> bool:
    """Is this a gateway, supervisor, cluster or NIM container: OpenShell's own, with no agent in it?

    The name decides only without labels: a sandbox called "cluster" is openshell-cluster-<id> until 0.0.87.
    """
    if _GATEWAY_IMAGE.search(image):
        return True
    return not (labels and labels.managed) and _GATEWAY_NAME.fullmatch(name) is not None


def is_secret_place(path: str) -> bool:
    """Is PATH of a container OpenShell's own (``/etc/openshell/tls/client/tls.key``, ``/etc/openshell-tls``)?"""
    return os.path.normpath(path).startswith(_SECRET_PLACES)


def is_companion(entrypoint: str, network_mode: str, has_workload: bool) -> bool:
    """Is this the supervisor beside a 0.1.x workload, and not the sandbox itself?

    The workload runs openshell-sandbox with no network; its companion runs openshell-supervisor on
    the host's. Anything else with the same sandbox id stays a row of its own: a forged label must not hide data.
    """
    if entrypoint.rsplit("/", 1)[-1] == "openshell-supervisor":
        return True
    return has_workload and network_mode == "host" and not is_workload(entrypoint, network_mode)


def is_workload(entrypoint: str, network_mode: str) -> bool:
    return entrypoint.rsplit("/", 1)[-1] == "openshell-sandbox" or network_mode == "none"


def gateway_processes(root: str) -> list[int]:
    """Return pids of our own pid namespace that call themselves openshell-gateway.

    A sandbox's processes are visible too and may take any name; theirs show a second number in NSpid.
    """
    found = []
    proc = below(root, "/proc")
    try:
        names = [name for name in os.listdir(proc) if name.isascii() and name.isdigit()][:_MAX_PROCESSES]
    except OSError:
        return []
    for name in names:
        if _read(proc + "/" + name + "/comm", 64).strip() == _GATEWAY_COMM:
            status = _read(proc + "/" + name + "/status", 65536)
            spaces = [line.split()[1:] for line in status.splitlines() if line.startswith(b"NSpid:")]
            if not spaces or len(spaces[0]) == 1:
                found.append(int(name))
    return sorted(found)


def _read(path: str, limit: int) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(limit)
    except OSError:
        return b""


def _config_dirs(root: str, accounts: Sequence[Account]) -> list[str]:
    places = [account.home + "/.config/openshell" for account in accounts] + ["/etc/openshell"]
    return [path for path in places if os.path.isdir(below(root, path))]


def probe(*, lookups: Lookups, accounts: Accounts, gateways: Sequence[str] = (), sandboxes: int = 0) -> Runtime:
    """Is OpenShell here? A binary, a gateway process, its containers; a configuration directory alone stays unknown."""
    evidence: list[str] = []
    binary = lookups.binary("openshell", accounts.known)
    daemon = lookups.binary("openshell-gateway", accounts.known, ask_version=binary is None)
    for found in (binary, daemon):
        if found is not None:
            evidence += found.evidence
    pids = lookups.kept("openshell processes", lambda: gateway_processes(lookups.root))
    evidence += ["process openshell-gateway (pid %d)" % pid for pid in pids[:5]]
    evidence += ["container " + name for name in gateways[:5]]
    if sandboxes:
        evidence.append("%d container(s) with OpenShell's labels" % sandboxes)
    configured = lookups.kept("openshell config", lambda: _config_dirs(lookups.root, accounts.known))
    first = binary or daemon
    present: Optional[bool] = True if evidence else None
    if not evidence and not configured and accounts.complete:
        present = False
        evidence.append("no binary, process, container or configuration")
    elif not evidence and not configured:
        evidence.append("nothing found, but not every user's home could be looked into")
    evidence += ["configuration " + path for path in configured[:5]]
    return Runtime(
        "openshell",
        present,
        first.version if first else None,
        first.path if first else None,
        first.user if first else None,
        tuple(evidence),
    )
