# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Engines beside the one ``docker_host`` names: Podman's sockets, the system's and each user's own, and users' Dockers.

Podman answers the same requests. A user's Docker is rootless, or runs in a virtual machine (Colima, Docker Desktop): then
its containers are no processes here, and the archive route reads them. A user's engine speaks for that user and
nobody else: its containers have identities of their own, its mounts are not followed, and what is read of them must
belong to one of the user's ids (ContainerPlace.owner). Sources: podman-system-service(1), reference/openshell.md §2 B
"Podman", reference/nemoclaw.md §1 "Platforms".
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass, replace
from typing import Callable, Optional, Sequence

from ..dockerapi import Engine
from ..errors import shown
from ..model import Runtime
from . import docker
from .accounts import Accounts, below
from .binaries import Lookups

SYSTEM_SOCKET = "/run/podman/podman.sock"
# Below a home; the rootless one is in the user's run-time directory.
DOCKER_SOCKETS = (
    ".colima/default/docker.sock",
    ".config/colima/default/docker.sock",
    ".colima/docker.sock",
    ".docker/run/docker.sock",
    ".docker/desktop/docker.sock",
)
# The service behind a socket is started by asking and ends when nobody does: not to be kept up by us.
INTERVAL_S = 15.0
TIMEOUT_S = 3.0
MAX_SOCKETS = 50


@dataclass(frozen=True)
class Socket:
    """An API socket; ``owner`` is the user of a rootless one."""

    path: str
    owner: Optional[int] = None
    kind: str = "podman"  # podman | docker


def sockets(root: str, accounts: Accounts) -> list[Socket]:
    """Return the API sockets that exist and belong to whom they should: the system's, and each known user's own."""
    places = [Socket(SYSTEM_SOCKET)]
    for account in accounts.known:
        if account.uid:
            places.append(Socket("/run/user/%d/podman/podman.sock" % account.uid, account.uid))
            paths = ["/run/user/%d/docker.sock" % account.uid, *("%s/%s" % (account.home, path) for path in DOCKER_SOCKETS)]
            places += [Socket(path, account.uid, "docker") for path in paths]
    return [place for place in dict.fromkeys(places) if _is_socket_of(below(root, place.path), place.owner)][:MAX_SOCKETS]


def _is_socket_of(path: str, owner: Optional[int]) -> bool:
    """Is PATH a socket of that user's? For the system's, the directory it lies in says enough."""
    try:
        seen = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISSOCK(seen.st_mode) and (owner is None or seen.st_uid == owner)


class Engines:
    """Asks every engine of the host but the one that ``docker_host`` already names."""

    def __init__(self, root: str, primary: Engine, only: Optional[str], euid: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._primary = primary
        self._only = only
        self._euid = euid
        self._clock = clock
        self._finders: dict[Socket, docker.Finder] = {}
        self._last: dict[Socket, tuple[float, docker.Containers]] = {}

    def add_to(self, containers: docker.Containers, found: Sequence[Socket]) -> docker.Containers:
        """Return CONTAINERS with the sandboxes of the engines behind FOUND."""
        for gone in [socket for socket in self._finders if socket not in found]:
            del self._finders[gone]
            self._last.pop(gone, None)
        for socket in found:
            if self._is_primary(socket):
                continue
            answer = self._ask(socket)
            containers = replace(
                containers,
                sandboxes=containers.sandboxes + answer.sandboxes,
                gateways=containers.gateways + answer.gateways,
                gateway_rows=containers.gateway_rows + answer.gateway_rows,
                companions=containers.companions + answer.companions,
                # A rootless cluster's pods are processes of ours to see as well, but of its user's to name.
                clusters=containers.clusters + (answer.clusters if socket.owner is None else ()),
                warnings=containers.warnings + answer.warnings,
            )
        return containers

    def answering(self, kind: str) -> tuple[Optional[str], Optional[str]]:
        """Return (socket, version) of the first Podman or Docker that answered, (None, None) when none did."""
        for socket, (_when, answer) in self._last.items():
            if answer.error is None and answer.podman is (kind == "podman"):
                return "unix://" + socket.path, answer.version
        return None, None

    def _is_primary(self, socket: Socket) -> bool:
        """Is this the primary's socket, perhaps by another name (/run/docker.sock may be a link to it)?"""
        try:
            return os.path.samefile(below(self._root, socket.path), self._primary.host.partition("://")[2])
        except OSError:
            return False

    def _ask(self, socket: Socket) -> docker.Containers:
        known = self._last.get(socket)
        if known is not None and self._clock() - known[0] < INTERVAL_S:
            return known[1]
        if socket not in self._finders:
            # Rootless containers of our own user are as trustworthy as ourselves, and their files ours.
            owner = None if socket.owner == self._euid else socket.owner
            prefix = socket.kind + (":" if socket.owner is None else ":%d:" % socket.owner)
            engine = Engine("unix://" + below(self._root, socket.path), timeout_s=TIMEOUT_S, ends_at=self._primary.ends_at)
            self._finders[socket] = docker.Finder(engine, self._only, self._clock, prefix=prefix, owner=owner)
        answer = self._finders[socket].find()
        self._last[socket] = (self._clock(), answer)
        return answer


def probe(*, lookups: Lookups, accounts: Accounts, answered_by: Optional[str] = None, version: Optional[str] = None) -> Runtime:
    """Is Podman here? ``answered_by`` is an engine socket that Podman answered on."""
    binary = lookups.binary("podman", ask_version=False)
    evidence = ["binary " + binary.path] if binary else []
    found = lookups.kept("podman sockets", lambda: sockets(lookups.root, accounts))
    evidence += ["socket " + socket.path for socket in found if socket.kind == "podman"][:5]
    if answered_by:
        evidence.append("%s is answered by Podman" % shown(answered_by))
    present = bool(evidence)
    return Runtime(
        "podman",
        present,
        version if answered_by else None,
        binary.path if binary else None,
        None,
        tuple(evidence) or ("no binary or socket",),
    )
