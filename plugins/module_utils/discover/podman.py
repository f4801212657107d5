# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Podman: is it on this host? By sockets and binary only; nothing is asked.

Its containers are found when ``docker_host`` names its socket, which speaks the same API.
Rootless sockets lie in /run/user/<uid>/podman. Source: podman-system-service(1).
"""

from __future__ import annotations

import os
from typing import Optional

from ..model import Runtime
from .accounts import Accounts, below
from .binaries import Lookups


def sockets(root: str, accounts: Accounts) -> list[str]:
    """Return the API sockets that exist: the system's, and each known user's own."""
    places = ["/run/podman/podman.sock"]
    places += ["/run/user/%d/podman/podman.sock" % account.uid for account in accounts.known if account.uid]
    return [path for path in places if os.path.exists(below(root, path))]


def probe(*, lookups: Lookups, accounts: Accounts, answered_by: Optional[str] = None, version: Optional[str] = None) -> Runtime:
    """Is Podman here? ``answered_by`` is an engine socket that Podman answered on."""
    binary = lookups.binary("podman", ask_version=False)
    evidence = ["binary " + binary.path] if binary else []
    evidence += ["socket " + path for path in lookups.kept("podman sockets", lambda: sockets(lookups.root, accounts))[:5]]
    if answered_by:
        evidence.append("%s is answered by Podman" % answered_by)
    present = bool(evidence)
    return Runtime(
        "podman",
        present,
        version if answered_by else None,
        binary.path if binary else None,
        None,
        tuple(evidence) or ("no binary or socket",),
    )
