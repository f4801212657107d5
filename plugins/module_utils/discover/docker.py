# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Sandbox containers of a local Docker engine (or Podman's compatible socket): all of them, not the first.

List everything, inspect candidates only, remember what did not change. A candidate is confirmed
by OpenShell's own labels here, or later by the reader that finds an OpenClaw state directory; a
name or an image never confirms anything (an nvidia/cuda container is a candidate and no more).
Config.Env is neither read nor kept. Rules: design.md "What counts as a sandbox".
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from typing import Any, Callable, Mapping, Optional

from ..dockerapi import Engine, EngineError, field
from ..errors import shown
from ..model import ContainerPlace, Mount, Runtime, Sandbox, Security
from . import k3s, openshell
from .binaries import Lookups
from .names import clean

MAX_CONTAINERS = 5000
MAX_LABELS = 2000
MAX_MOUNTS = 64
# Each question to a hung engine costs a whole timeout; between two, what was seen last has to do.
RETRY_HUNG_S = 15.0
_ID = re.compile(r"[0-9a-f]{64}")
_LOOKS_LIKE = re.compile(r"openclaw|clawd|openshell|nemoclaw|nvidia", re.IGNORECASE)
# An image given by its id says nothing about what is in it (OpenShell from 0.0.94 on creates them so).
_DIGEST = re.compile(r"(?:sha256:)?[0-9a-f]{12,64}")
_STATES = {"exited": "stopped", "dead": "stopped"}


@dataclass(frozen=True)
class Row:
    """One row of the container list. ``uptime`` is the engine's Status text, which changes with every restart."""

    container_id: str
    name: str
    image: str
    state: str
    uptime: str
    labels: Mapping[str, str]
    ports: tuple[int, ...] = ()  # published on the host


@dataclass(frozen=True)
class Detail:
    """What we use of a container's inspection."""

    image: str
    pid: int
    started_at: str
    running: bool
    status: str
    entrypoint: str
    network_mode: str
    labels: Mapping[str, str]
    mounts: tuple[Mount, ...] = ()


@dataclass(frozen=True)
class Containers:
    """What the engine told: candidates and confirmed sandboxes, OpenShell's own containers, and how asking went."""

    sandboxes: tuple[Sandbox, ...] = ()
    gateways: tuple[str, ...] = ()
    gateway_rows: tuple[Row, ...] = ()  # the same containers, as they were listed
    companions: int = 0  # supervisors of 0.1.x beside their workloads
    clusters: tuple[k3s.Cluster, ...] = ()
    version: Optional[str] = None
    podman: bool = False
    error: Optional[EngineError] = None
    warnings: tuple[str, ...] = ()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _labels(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    pairs = list(value.items())[:MAX_LABELS]
    return {key: text for key, text in pairs if isinstance(key, str) and isinstance(text, str)}


def parse_row(row: Mapping[str, Any]) -> Optional[Row]:
    """Return what one object of GET /containers/json says, None when it has no usable id."""
    container_id = _text(row.get("Id"))
    if not _ID.fullmatch(container_id):
        return None
    names = row.get("Names")
    first = _text(names[0]) if isinstance(names, list) and names else ""
    return Row(
        container_id=container_id,
        name=first[1:] if first.startswith("/") else first,
        image=_text(row.get("Image")),
        state=_text(row.get("State")),
        uptime=_text(row.get("Status")),
        labels=_labels(row.get("Labels")),
        ports=_ports(row.get("Ports")),
    )


def _ports(listed: object) -> tuple[int, ...]:
    """Return the published ports of ``[{"PrivatePort": 30051, "PublicPort": 8080, "Type": "tcp"}]``, each once."""
    found = [field(port, "PublicPort") for port in (listed[:MAX_MOUNTS] if isinstance(listed, list) else [])]
    return tuple(sorted({port for port in found if isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536}))


def parse_detail(answer: Mapping[str, Any]) -> Detail:
    """Return what one object of GET /containers/{id}/json says; missing parts are empty, a bad pid is 0."""
    pid = field(answer, "State", "Pid")
    entrypoint = _text(answer.get("Path"))
    if not entrypoint:
        listed = field(answer, "Config", "Entrypoint")
        entrypoint = _text(listed[0]) if isinstance(listed, list) and listed else ""
    running = field(answer, "State", "Running") is True
    good_pid = pid if isinstance(pid, int) and not isinstance(pid, bool) and 0 < pid < 2**31 else 0
    return Detail(
        image=_text(field(answer, "Config", "Image")),
        pid=good_pid if running else 0,
        started_at=clean(field(answer, "State", "StartedAt"), 64) or "",
        running=running,
        status=_text(field(answer, "State", "Status")),
        entrypoint=entrypoint,
        network_mode=_text(field(answer, "HostConfig", "NetworkMode")),
        labels=_labels(field(answer, "Config", "Labels")),
        mounts=_mounts(answer.get("Mounts")),
    )


def _mounts(listed: object) -> tuple[Mount, ...]:
    """Return the volumes and bind mounts, without those through which OpenShell hands keys and tokens in.

    Sample: ``{"Type": "volume", "Source": "/var/lib/docker/volumes/x/_data", "Destination": "/sandbox", "RW": true}``.
    """
    found = []
    for mount in listed[:MAX_MOUNTS] if isinstance(listed, list) else []:
        source, destination = _text(field(mount, "Source")), _text(field(mount, "Destination"))
        good = source.startswith("/") and destination.startswith("/") and "\0" not in source + destination
        if field(mount, "Type") in ("volume", "bind") and good and not openshell.is_secret_place(destination):
            found.append(Mount(source.encode("utf-8", "replace"), destination.encode("utf-8", "replace")))
    return tuple(found)


def candidate_reasons(row: Row, only: Optional[str] = None) -> tuple[str, ...]:
    """Return why this container may be a sandbox; empty when nothing says so."""
    reasons = []
    if openshell.parse_labels(row.labels) is not None:
        reasons.append("label openshell.ai/*")
    if row.image.startswith(openshell.SANDBOX_IMAGES):
        reasons.append("image of the OpenShell community sandboxes")
    elif _LOOKS_LIKE.search(row.image):
        reasons.append("image name")
    if _LOOKS_LIKE.search(row.name):
        reasons.append("container name")
    if only is not None and only in (row.name, row.container_id, row.container_id[:12]):
        reasons.append("asked for by name")
    return tuple(reasons)


def to_sandbox(
    row: Row,
    detail: Optional[Detail],
    *,
    engine: str,
    reasons: tuple[str, ...],
    reason: Optional[str] = None,
    prefix: str = "docker:",
    owner: Optional[int] = None,
) -> Sandbox:
    """Merge list row and inspection; the identity is the container's id and nothing else.

    ``prefix`` keeps apart the ids of engines that do not trust each other; see ContainerPlace for ``owner``.
    """
    labels = openshell.parse_labels(row.labels)
    managed = labels is not None and labels.managed
    images = [text for text in (row.image, detail.image if detail else "") if text]
    named = [text for text in images if not _DIGEST.fullmatch(text)]
    state = (detail.status if detail else "") or row.state
    return Sandbox(
        uid=prefix + row.container_id,
        name=(labels.name if labels and labels.name else None) or clean(row.name) or row.container_id[:12],
        type="nemoclaw" if managed else "docker",
        id=(labels.sandbox_id if labels else None) or row.container_id,
        status=_STATES.get(state, clean(state, 32)),
        phase_source="docker",
        workspace=labels.workspace if labels else None,
        image=clean((named or images or [""])[0], 512),
        security=Security(sandbox_enabled=True if managed else None),
        container=ContainerPlace(
            engine=engine,
            container_id=row.container_id,
            pid=detail.pid if detail else 0,
            started_at=detail.started_at if detail else "",
            running=detail.running if detail else False,
            # A user may mount what is not theirs to read; we could read it.
            mounts=detail.mounts if detail and owner is None else (),
            owner=owner,
        ),
        evidence=reasons,
        confirmed=managed,
        reason=reason,
    )


def without_companions(found: list[tuple[Sandbox, Optional[Detail]]]) -> list[Sandbox]:
    """Drop the supervisor of each 0.1.x pair; two containers that merely claim one sandbox id both stay."""
    workloads = {
        box.id
        for box, detail in found
        if box.confirmed and detail is not None and openshell.is_workload(detail.entrypoint, detail.network_mode)
    }
    return [
        box
        for box, detail in found
        if detail is None or not box.confirmed or not openshell.is_companion(detail.entrypoint, detail.network_mode, box.id in workloads)
    ]


class Finder:
    """Asks one engine, and remembers each container's inspection until its row in the list changes."""

    def __init__(
        self,
        engine: Engine,
        only: Optional[str] = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        prefix: str = "docker:",
        owner: Optional[int] = None,
    ) -> None:
        self.engine = engine
        self._prefix = prefix
        self._owner = owner
        self._only = only
        self._clock = clock
        self._not_before: Optional[float] = None
        self._details: dict[str, tuple[tuple[str, str], Detail]] = {}
        self._version: Optional[tuple[Optional[str], bool]] = None
        self._last = Containers()

    def find(self) -> Containers:
        """Return all candidates and sandboxes. Never raises: an engine that fails leaves those last seen, status unknown."""
        if self._not_before is not None and self._clock() < self._not_before and self._last.error is not None:
            return self._last
        self._not_before = None
        try:
            if self._version is None:
                self._version = _parse_version(self.engine.version())
            version, podman = self._version
            rows = self.engine.containers()
        except EngineError as exc:
            self._version = None
            return self._stale(exc)
        self._last = replace(self._sort_out(rows), version=version, podman=podman)
        return self._last

    def _sort_out(self, answer: list[Mapping[str, Any]]) -> Containers:
        warnings = []
        if len(answer) > MAX_CONTAINERS:
            warnings.append("only the first %d of %d containers were looked at" % (MAX_CONTAINERS, len(answer)))
        gateways: list[Row] = []
        clusters: list[k3s.Cluster] = []
        found: list[tuple[Sandbox, Optional[Detail]]] = []
        kept: dict[str, tuple[tuple[str, str], Detail]] = {}
        for row in filter(None, map(parse_row, answer[:MAX_CONTAINERS])):
            reasons = candidate_reasons(row, self._only)
            if not reasons:
                continue
            if openshell.is_infrastructure(row.name, row.image, openshell.parse_labels(row.labels)):
                gateways.append(row)
                if row.name.startswith(k3s.CLUSTER_PREFIX):
                    name = clean(row.name) or row.container_id[:12]
                    clusters.append(k3s.Cluster(name, row.container_id, self.engine.host, row.state == "running"))
                continue
            try:
                detail = self._inspect(row)
                kept[row.container_id] = ((row.state, row.uptime), detail)
                found.append((self._sandbox(row, detail, reasons), detail))
            except EngineError as exc:
                if exc.kind == "gone":
                    continue
                why = "could not be inspected: " + exc.what
                warnings.append("container %s %s" % (shown(row.name), why))
                found.append((self._sandbox(row, None, reasons, why), None))
        self._details = kept
        boxes = tuple(without_companions(found))
        return Containers(
            sandboxes=boxes,
            gateways=tuple(clean(row.name) or row.container_id[:12] for row in gateways),
            gateway_rows=tuple(gateways),
            companions=len(found) - len(boxes),
            clusters=tuple(clusters),
            warnings=tuple(warnings),
        )

    def _sandbox(self, row: Row, detail: Optional[Detail], reasons: tuple[str, ...], reason: Optional[str] = None) -> Sandbox:
        return to_sandbox(row, detail, engine=self.engine.host, reasons=reasons, reason=reason, prefix=self._prefix, owner=self._owner)

    def _inspect(self, row: Row) -> Detail:
        known = self._details.get(row.container_id)
        if known is not None and known[0] == (row.state, row.uptime):
            return known[1]
        return parse_detail(self.engine.inspect(row.container_id))

    def _stale(self, exc: EngineError) -> Containers:
        """The sandboxes last seen, whose agents go on writing while an engine restarts or hangs."""
        why = "the engine does not answer (%s); last seen before that" % exc.kind
        boxes = tuple(replace(box, status=None, reason=why) for box in self._last.sandboxes)
        if exc.kind == "hangs":
            self._not_before = self._clock() + RETRY_HUNG_S
        self._last = replace(
            self._last,
            sandboxes=boxes,
            error=exc,
            warnings=("%s: %s" % (self._prefix.partition(":")[0], exc),) if exc.kind != "absent" else (),
        )
        return self._last


def _parse_version(answer: Mapping[str, Any]) -> tuple[Optional[str], bool]:
    """Return the engine's version, and whether it is Podman that answers."""
    components = answer.get("Components")
    names = [_text(field(part, "Name")) for part in components] if isinstance(components, list) else []
    return clean(answer.get("Version"), 64), any("podman" in name.lower() for name in names)


def find(engine: Engine, only: Optional[str] = None) -> Containers:
    """Ask ENGINE once; see Finder for repeated passes."""
    return Finder(engine, only).find()


def reinspect(engine: Engine, place: ContainerPlace) -> Optional[ContainerPlace]:
    """Return PLACE with the engine's pid, start time and running state of now; None when the container is gone.

    Raises EngineError when the engine cannot be asked: that is no news about the container.
    """
    try:
        detail = parse_detail(engine.inspect(place.container_id))
    except EngineError as exc:
        if exc.kind == "gone":
            return None
        raise
    return replace(place, pid=detail.pid, started_at=detail.started_at, running=detail.running)


def probe(
    containers: Containers, *, host: str, lookups: Lookups, other: tuple[Optional[str], Optional[str]] = (None, None)
) -> Runtime:
    """Is Docker here? What the socket answered; absent, refusing us, and hanging are different answers.

    ``other`` is a user's own Docker that answered: its socket and version.
    """
    error = containers.error
    client = lookups.binary("docker", ask_version=False)
    daemon = lookups.binary("dockerd", ask_version=False)
    binary = daemon or client
    path = binary.path if binary else None
    evidence = ["binary " + found.path for found in (daemon, client) if found]
    if other[0] is not None and (error is not None or containers.podman):
        return Runtime("docker", True, other[1], path, None, ("%s answers" % shown(other[0]), *evidence))
    if error is None:
        if containers.podman:
            return Runtime("docker", False, None, path, None, ("%s is answered by Podman" % host, *evidence))
        return Runtime("docker", True, containers.version, path, None, ("%s answers" % host, *evidence))
    evidence.insert(0, str(error))
    if error.kind == "absent":
        return Runtime("docker", daemon is not None, None, path, None, tuple(evidence))
    return Runtime("docker", None, None, path, None, tuple(evidence))
