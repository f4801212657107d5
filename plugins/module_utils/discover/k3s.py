# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""k3s: is it on this host, by itself or inside OpenShell's cluster container (0.0.1 to 0.0.36), and which pods run in that.

Pods are found from the host's own /proc: the kernel's word on which cgroup a process runs in, not
Kubernetes' word on anything; nothing is asked of k3s, unless the operator allows route exec: then its
kubectl is a second source, and the only one where /proc is another machine's. A pod's own root shows /sandbox whether it lies
on its claim (from 0.0.22 on) or in the container's writable layer. Source: reference/openshell.md §2 A;
kubelet's cgroup names.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, replace
from typing import Callable, Iterator, Mapping, Optional, Sequence

from ..errors import Unreadable, shown
from ..model import ContainerPlace, Runtime, Sandbox, Security
from ..read import layout, procroot
from .accounts import below
from .binaries import Lookups
from .names import clean

DATA_DIR = "/var/lib/rancher/k3s"
CLUSTER_PREFIX = "openshell-cluster-"
MAX_PODS = 500
ASK_INTERVAL_S = 15.0
_MAX_PROCESSES = 20_000
_MAX_ANCESTORS = 32
# /docker/<id>/kubepods/besteffort/pod<uid>/<container>, or with systemd's driver
# …/kubepods-besteffort-pod<uid with _>.slice/cri-containerd-<container>.scope
_POD = re.compile(r"kubepods[^/]*(?:/[^/]+)*?[/-]pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})(?:\.slice)?/([^/]+)")

NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True)
class Cluster:
    """One of OpenShell's k3s containers."""

    name: str  # as the engine has it, cleaned
    container_id: str
    engine: str
    running: bool = True

    @property
    def gateway(self) -> str:
        return self.name[len(CLUSTER_PREFIX) :]


@dataclass(frozen=True)
class Told:
    """A pod that may be a sandbox, as kubectl tells of it. ``managed``: it carries OpenShell's own label."""

    name: str
    uid: str
    phase: str
    sandbox_id: Optional[str]
    managed: bool


Ask = Callable[[Cluster], Sequence[Told]]


@dataclass(frozen=True)
class _Inside:
    """What the root of one container of a pod shows."""

    hostname: Optional[str]
    has_sandbox: bool
    has_state: bool


def cluster_containers(gateways: Sequence[str]) -> tuple[str, ...]:
    """Return those of OpenShell's own containers that hold a k3s."""
    return tuple(name for name in gateways if name.startswith(CLUSTER_PREFIX))


def parse_pod(paths: Sequence[str]) -> Optional[tuple[str, str]]:
    """Return (pod uid, container of the pod) of a process's cgroups, None when it is in no pod."""
    for path in paths:
        match = _POD.search(path)
        if match is not None:
            return match.group(1).replace("_", "-"), match.group(2)
    return None


def _stat_field(proc: str, pid: int, number: int) -> int:
    """Return a field of /proc/<pid>/stat, numbered as in proc(5); -1 when the process is gone."""
    try:
        with open("%s/%d/stat" % (proc, pid), "rb") as stream:
            # The name is in brackets and may hold anything, brackets too.
            return int(stream.read(4096).rpartition(b")")[2].split()[number - 3])
    except (OSError, ValueError, IndexError):
        return -1


def started(proc: str, pid: int) -> int:
    """Return when PID was started, in ticks since boot; -1 when it is gone."""
    return _stat_field(proc, pid, 22)


def _cluster_of(proc: str, pid: int, paths: Sequence[str], ids: Sequence[str]) -> Optional[str]:
    """Return the id of the cluster container PID belongs to: by its cgroup, else by that of an ancestor.

    Where the container shares the host's cgroup namespace its pods may lie beside it, but a pod's
    first process is still a child of k3s, and no process can choose its parent.
    """
    for _step in range(_MAX_ANCESTORS):
        for container_id in ids:
            if any(container_id in path for path in paths):
                return container_id
        pid = _stat_field(proc, pid, 4)
        if pid <= 1:
            return None
        paths = procroot.cgroup_paths(pid, proc)
    return None


class Pods:
    """Looks for pods again and again; what is in one is looked at once, until it holds a state directory."""

    def __init__(self, root: str = "/", ask: Optional[Ask] = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = below(root, "/proc")
        self._ask = ask
        self._clock = clock
        self._told: dict[str, tuple[float, Sequence[Told]]] = {}
        self._inside: dict[tuple[int, int], _Inside] = {}

    def find(self, clusters: Sequence[Cluster]) -> tuple[list[Sandbox], list[str]]:
        """Return a Sandbox for each pod that has a /sandbox, and what could not be looked into. Costs nothing without clusters."""
        running = {cluster.container_id: cluster for cluster in clusters if cluster.running}
        if not running:
            self._inside.clear()
            return [], []
        inside: dict[tuple[int, int], _Inside] = {}
        pods: list[Sandbox] = []
        warnings: list[str] = []
        denied: dict[str, int] = {}
        groups = self._groups(tuple(running))
        if len(groups) > MAX_PODS:
            warnings.append("k3s: only the first %d of %d pods were looked at" % (MAX_PODS, len(groups)))
        for (container_id, uid), firsts in sorted(groups.items())[:MAX_PODS]:
            best: Optional[tuple[tuple[bool, bool], int, _Inside]] = None
            for pid in sorted(firsts.values()):
                key = (pid, started(self._proc, pid))
                try:
                    seen = self._inside.get(key) or self._look_into(pid)
                except Unreadable as exc:
                    denied.setdefault(str(exc), 0)
                    denied[str(exc)] += 1
                    continue
                if seen.has_state:
                    inside[key] = seen
                rank = (seen.has_state, seen.has_sandbox)
                if any(rank) and (best is None or rank > best[0]):
                    best = (rank, pid, seen)
            if best is not None:
                pods.append(self._sandbox(running[container_id], uid, best[1], best[2]))
        self._inside = inside
        if self._ask is not None:
            pods, trouble = self._with_told(pods, running, self._ask)
            warnings += trouble
        warnings += ["k3s: a pod's process could not be looked into: " + text for text in list(denied)[:3]]
        return pods, warnings

    def _with_told(self, pods: list[Sandbox], running: Mapping[str, Cluster], ask: Ask) -> tuple[list[Sandbox], list[str]]:
        """Give PODS what kubectl tells of them, and add those /proc does not show."""
        boxes = {box.uid: box for box in pods}
        warnings = []
        for container_id, cluster in running.items():
            when, told = self._told.get(container_id, (-1e12, ()))
            if self._clock() - when >= ASK_INTERVAL_S:
                try:
                    told = ask(cluster)
                except Unreadable as exc:
                    warnings.append("k3s: kubectl in %s: %s" % (shown(cluster.name), exc))
                self._told[container_id] = (self._clock(), told)
            for pod in told:
                uid = "k3s:%s:%s" % (container_id, pod.uid)
                known = boxes.get(uid)
                if known is None or known.container is None:
                    boxes[uid] = _told_sandbox(cluster, pod)
                else:
                    place = replace(known.container, pod_name=pod.name)
                    evidence = (*known.evidence, "kubectl get pods")
                    managed = known.confirmed or pod.managed
                    boxes[uid] = replace(
                        known, name=pod.name, id=pod.sandbox_id or pod.uid, container=place, evidence=evidence, confirmed=managed
                    )
        return list(boxes.values()), warnings

    def _groups(self, ids: Sequence[str]) -> dict[tuple[str, str], dict[str, int]]:
        """Return {(cluster id, pod uid): {container: its oldest process}}."""
        found: dict[tuple[str, str], dict[str, int]] = {}
        oldest: dict[tuple[str, str, str], int] = {}
        for pid in self._pids():
            paths = procroot.cgroup_paths(pid, self._proc)
            pod = parse_pod(paths)
            if pod is None:
                continue
            cluster = _cluster_of(self._proc, pid, paths, ids)
            start = started(self._proc, pid)
            if cluster is None or start < 0:
                continue
            key = (cluster, *pod)
            if key not in oldest or start < oldest[key]:
                oldest[key] = start
                found.setdefault((cluster, pod[0]), {})[pod[1]] = pid
        return found

    def _pids(self) -> Iterator[int]:
        try:
            names = [name for name in os.listdir(self._proc) if name.isascii() and name.isdigit()]
        except OSError:
            return iter(())
        return iter(sorted(map(int, names[:_MAX_PROCESSES])))

    def _look_into(self, pid: int) -> _Inside:
        pinned = procroot.pin(pid, "pod process %d" % pid, self._proc)
        try:
            hostname = None
            try:
                data, _seen = pinned.root.read_small(b"etc/hostname", 256)
                text = data.decode("ascii", "replace").strip()
                hostname = text if NAME.fullmatch(text) else None
            except (FileNotFoundError, Unreadable):
                pass
            try:
                pinned.root.open_dir(b"sandbox").close()
                has_sandbox = True
            except (FileNotFoundError, Unreadable):
                has_sandbox = False
            return _Inside(hostname, has_sandbox, has_sandbox and bool(layout.find_states(pinned.root)))
        finally:
            pinned.close()

    def _sandbox(self, cluster: Cluster, uid: str, pid: int, seen: _Inside) -> Sandbox:
        return Sandbox(
            uid="k3s:%s:%s" % (cluster.container_id, uid),
            name=seen.hostname or "pod-" + uid[:8],
            type="nemoclaw",
            id=uid,
            status="running",
            phase_source="host",
            gateway=clean(cluster.gateway),
            security=Security(sandbox_enabled=True),
            container=ContainerPlace(
                engine=cluster.engine,
                container_id=cluster.container_id,
                pid=pid,
                started_at=str(started(self._proc, pid)),
                running=True,
                pod=uid,
            ),
            evidence=("pod %s in %s (pid %d)" % (uid, shown(cluster.name), pid),),
            confirmed=seen.has_state,
            reason=None if seen.hostname else "the pod's hostname could not be read",
        )


def _told_sandbox(cluster: Cluster, pod: Told) -> Sandbox:
    return Sandbox(
        uid="k3s:%s:%s" % (cluster.container_id, pod.uid),
        name=pod.name,
        type="nemoclaw",
        id=pod.sandbox_id or pod.uid,
        status=pod.phase or None,
        phase_source="kubectl",
        gateway=clean(cluster.gateway),
        security=Security(sandbox_enabled=True),
        container=ContainerPlace(
            engine=cluster.engine,
            container_id=cluster.container_id,
            started_at=pod.uid,
            running=pod.phase == "running",
            pod=pod.uid,
            pod_name=pod.name,
        ),
        evidence=("kubectl get pods in " + shown(cluster.name),),
        confirmed=pod.managed,
    )


def reinspect(place: ContainerPlace, root: str = "/") -> Optional[ContainerPlace]:
    """Return PLACE when its process still is the one it was, in the same pod of the same container; else None."""
    proc = below(root, "/proc")
    paths = procroot.cgroup_paths(place.pid, proc)
    pod = parse_pod(paths)
    same = pod is not None and pod[0] == place.pod and str(started(proc, place.pid)) == place.started_at
    return place if same and _cluster_of(proc, place.pid, paths, (place.container_id,)) else None


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
