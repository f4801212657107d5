# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""OpenShell's gateways on this host: one row each, from configuration, registries, containers, processes and their own word.

A gateway is a container (k3s until 0.0.36; old C libraries later), a process of a user, or that user's systemd
service; more than one may run. Reads /proc; opens no file that may hold a key. Source: reference/openshell.md
§0-2, reference/nemoclaw.md §6.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import Optional, Sequence

from ..errors import shown
from ..model import Sandbox
from . import docker, nemoclaw
from .accounts import Account, below
from .k3s import CLUSTER_PREFIX
from .names import clean
from .openshellcli import Answer

MAX_GATEWAYS = 16
_MAX_FDS = 4096
_SMALL = 1024 * 1024
_LISTENING = "0A"
_UNIT = re.compile(r"/([A-Za-z0-9@_.:-]{0,100}openshell[A-Za-z0-9@_.:-]{0,100}\.service)")
_OWN_CONTAINER = re.compile(r"nemoclaw-openshell-gateway(-\d{1,5})?")
_TAG = re.compile(r":v?(\d{1,9}\.\d{1,9}\.\d{1,9})$")


@dataclass(frozen=True)
class Process:
    """A running openshell-gateway of this host. ``unit``: the systemd service it belongs to, as its cgroup says."""

    pid: int
    uid: Optional[int] = None
    unit: Optional[str] = None
    user_scope: bool = False
    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Gateway:
    """One gateway; None is unknown. ``kind``: container | host process | user service | system service | remote."""

    name: Optional[str]
    user: Optional[str] = None
    kind: Optional[str] = None
    driver: Optional[str] = None
    port: Optional[int] = None
    running: Optional[bool] = None
    version: Optional[str] = None
    evidence: tuple[str, ...] = ()

    def because(self, *words: str) -> Gateway:
        return replace(self, evidence=self.evidence + words)


def processes(root: str, pids: Sequence[int]) -> tuple[Process, ...]:
    """Describe gateway processes by what the kernel says of them."""
    found = []
    for pid in pids[:MAX_GATEWAYS]:
        base = below(root, "/proc/%d" % pid)
        cgroup = read_text(base + "/cgroup")
        unit = _UNIT.search(cgroup)
        user_scope = "/user.slice/" in cgroup or "/user@" in cgroup
        found.append(Process(pid, _owner(base), unit.group(1) if unit else None, user_scope, _ports(base)))
    return tuple(found)


def _owner(base: str) -> Optional[int]:
    try:
        return os.stat(base).st_uid
    except OSError:
        return None


def _ports(base: str) -> tuple[int, ...]:
    """Return the TCP ports a process listens on: its socket descriptors, looked up in its network namespace's tables."""
    inodes = set()
    try:
        for name in os.listdir(base + "/fd")[:_MAX_FDS]:
            match = re.fullmatch(r"socket:\[(\d{1,20})\]", os.readlink("%s/fd/%s" % (base, name)))
            if match is not None:
                inodes.add(match.group(1))
    except OSError:
        return ()
    rows = listening(read_text(base + "/net/tcp")) + listening(read_text(base + "/net/tcp6"))
    return tuple(sorted({port for port, inode in rows if inode in inodes}))


def listening(table: str) -> list[tuple[int, str]]:
    """Return (port, inode) of the listening sockets of a /proc/<pid>/net/tcp text.

    ``   0: 0100007F:4505 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 31337 1 …``
    """
    found = []
    for line in table.splitlines()[1:]:
        parts = line.split()
        if len(parts) > 9 and parts[3] == _LISTENING:
            port = parts[1].rpartition(":")[2]
            if re.fullmatch(r"[0-9A-Fa-f]{4}", port):
                found.append((int(port, 16), parts[9]))
    return found


def gateways(
    *,
    accounts: Sequence[Account],
    answers: Sequence[Answer],
    registries: Sequence[nemoclaw.Found],
    containers: docker.Containers,
    running: Sequence[Process],
    boxes: Sequence[Sandbox],
) -> tuple[Gateway, ...]:
    """Return every gateway that anything tells of, each once."""
    rows = [_told(answer) for answer in answers]
    for found in registries:
        for entry in found.registry.entries if found.registry else ():
            if entry.gateway is None:
                continue
            at = next((n for n, row in enumerate(rows) if row.name == entry.gateway and row.user in (found.user, None)), None)
            if at is None:
                rows.append(Gateway(entry.gateway, found.user, evidence=("registry " + found.path,)))
                at = len(rows) - 1
            rows[at] = replace(rows[at], driver=rows[at].driver or entry.driver, port=rows[at].port or _port_of(entry.gateway))
    for container in containers.gateway_rows:
        _add_container(rows, container, stale=containers.error is not None)
    for process in running:
        _add_process(rows, process, accounts)
    driver = "podman" if containers.podman else "docker"
    live = {box.gateway for box in boxes if box.container is not None and box.uid.startswith(("docker:", "podman:"))}
    return tuple(replace(row, driver=row.driver or (driver if row.name in live else None)) for row in rows[:MAX_GATEWAYS])


def _told(answer: Answer) -> Gateway:
    known, status = answer.gateway, answer.status
    row = Gateway(known.name, answer.user, "remote" if known.remote else None, None, known.port, None, status.version)
    row = row.because("registered with openshell of %s%s" % (shown(answer.user or answer.home), ", active" if known.active else ""))
    if answer.error is None and answer.sandboxes is not None:
        return replace(row, running=True).because("answers")
    if answer.error == "unreachable":
        return replace(row, running=False).because("nothing answers there")
    if answer.error == "no_gateway":
        return replace(row, running=False).because("openshell knows no such gateway any more")
    return row.because("does not tell: %s" % (answer.detail or answer.error)) if answer.error else row


def _port_of(name: str) -> Optional[int]:
    """NemoClaw names its gateways by port: nemoclaw is 8080, nemoclaw-18080 is 18080."""
    tail = name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else nemoclaw.DEFAULT_PORT if name == "nemoclaw" else None


def _add_container(rows: list[Gateway], container: docker.Row, *, stale: bool) -> None:
    shown_name = clean(container.name) or container.container_id[:12]
    own = _OWN_CONTAINER.fullmatch(container.name)
    if container.name.startswith(CLUSTER_PREFIX):
        name, driver = clean(container.name[len(CLUSTER_PREFIX) :]), "kubernetes"
    elif own is not None:
        name, driver = "nemoclaw" + (own.group(1) or ""), "docker"
    elif re.search(r"(?:^|/)openshell/gateway(?:[:@]|$)", container.image):
        name, driver = shown_name, None
    else:
        return  # a supervisor or a NIM: OpenShell's, and no gateway
    at = next((n for n, row in enumerate(rows) if row.name == name and row.kind is None), None)
    if at is None:
        rows.append(Gateway(name))
        at = len(rows) - 1
    row, tag = rows[at], _TAG.search(container.image)
    is_up = None if stale else container.state == "running"
    rows[at] = replace(
        row,
        kind="container",
        driver=driver or row.driver,
        port=container.ports[0] if container.ports else row.port,
        running=is_up if is_up is not None else row.running,
        version=row.version or (tag.group(1) if tag else None),
    ).because("container %s, %s" % (shown_name, "last seen %s" % container.state if stale else container.state or "state unknown"))


def _add_process(rows: list[Gateway], process: Process, accounts: Sequence[Account]) -> None:
    user = next((account.name for account in accounts if account.uid == process.uid), None)
    kind = ("user service" if process.user_scope else "system service") if process.unit else "host process"
    free = [n for n, row in enumerate(rows) if row.kind is None]
    at = next((n for n in free if rows[n].port in process.ports), None)
    mine = [n for n in free if user is not None and rows[n].user == user]
    if at is None and not process.ports and len(mine) == 1:
        at = mine[0]  # its ports cannot be seen, but nothing else of that user can be meant
    if at is None:
        rows.append(Gateway(None, user))
        at = len(rows) - 1
    row = rows[at]
    text = "process %d%s" % (process.pid, " of " + process.unit if process.unit else "")
    port = row.port if row.port in process.ports or not process.ports else process.ports[0]
    rows[at] = replace(row, kind=kind, port=port, running=True).because(text)


def read_text(path: str) -> str:
    """Return at most a mebibyte of one of the kernel's files, "" when it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return stream.read(_SMALL).decode("utf-8", "replace")
    except OSError:
        return ""
