# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""k3s: is it on this host, by itself or inside OpenShell's cluster container (0.0.1 to 0.0.36)?

Nothing is asked of it. Its pods are not found yet: NemoClaw's registry rows say so.
"""

from __future__ import annotations

import os
from typing import Optional, Sequence

from ..model import Runtime
from .accounts import below
from .binaries import Lookups

DATA_DIR = "/var/lib/rancher/k3s"
CLUSTER_PREFIX = "openshell-cluster-"


def cluster_containers(gateways: Sequence[str]) -> tuple[str, ...]:
    """Return those of OpenShell's own containers that hold a k3s."""
    return tuple(name for name in gateways if name.startswith(CLUSTER_PREFIX))


def probe(*, lookups: Lookups, gateways: Sequence[str] = ()) -> Runtime:
    """Is k3s here? A binary or a cluster container says yes; a data directory alone may be a left-over."""
    binary = lookups.binary("k3s", ask_version=False)
    evidence = ["binary " + binary.path] if binary else []
    evidence += ["container " + name for name in cluster_containers(gateways)[:5]]
    present: Optional[bool] = bool(evidence)
    if os.path.isdir(below(lookups.root, DATA_DIR)):
        present = present or None
        evidence.append("directory " + DATA_DIR)
    path = binary.path if binary else None
    return Runtime("k3s", present, None, path, None, tuple(evidence) or ("no binary, data directory or cluster container",))
