# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""What is on this host: the runtimes, with the evidence seen, and every sandbox, each once.

One file per runtime; here they meet. Reads only, runs nothing but ``<binary> --version`` and the
reading verbs of a user's own ``openshell`` (openshellcli.READS; with ``deep`` also NemoClaw's), and
never raises: a runtime that fails becomes "unknown" with the reason. Cheap enough for every few
seconds when a Discoverer is kept: what did not change is neither read nor asked again.
"""

from __future__ import annotations

import fnmatch
import os
from dataclasses import replace
from importlib import import_module
from typing import Callable, Mapping, Optional, Sequence, TypeVar, Union

from .. import run
from ..dockerapi import DEFAULT_HOST, Engine
from ..errors import shown
from ..model import RUNTIMES, Discovery, Layer, Runtime, Sandbox
from . import docker, k3s, merging, nemoclaw, nemoclawcli, openclaw, openshell, openshellcli, podman, topology
from .accounts import Accounts, below, read_accounts
from .binaries import Lookups

__all__ = ["Discoverer", "discover"]

NOT_ASKED = "not asked for"
MAX_WARNINGS = 50
# Runtimes whose sandboxes are containers of the engine.
_IN_CONTAINERS = frozenset(("nemoclaw", "openshell", "docker", "podman", "k3s"))
T = TypeVar("T")


class Discoverer:
    """Looks at one host again and again.

    ``enabled``: which of model.RUNTIMES to look for. ``homes``: "auto" or the homes to look into.
    ``only``: NEMOCLAW_SANDBOX, a sandbox's name or id. ``env``: OPENCLAW_* and HOME. ``root``: a
    prefix for every path of the host, the engine's socket included. ``deep`` also asks NemoClaw's CLI, whose
    verbs are not free of side effects. ``quick_start`` leaves the CLIs out of the first pass, which they could hold up.
    ``may_exec``: the operator allows route exec, so kubectl may be run in OpenShell's k3s container.
    ``ends_at``, on the monotonic clock: nothing is asked of an engine or a command after that.
    """

    def __init__(
        self,
        *,
        enabled: Sequence[str] = RUNTIMES,
        docker_host: str = DEFAULT_HOST,
        homes: Union[str, Sequence[str]] = "auto",
        include: Sequence[str] = ("*",),
        exclude: Sequence[str] = (),
        only: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        root: str = "/",
        runner: run.Runner = run.run,
        deep: bool = False,
        may_exec: bool = False,
        quick_start: bool = False,
        ends_at: float = float("inf"),
    ) -> None:
        runner = run.until(runner, ends_at)
        self._enabled = frozenset(enabled)
        self._homes = homes
        self._include = tuple(include)
        self._exclude = tuple(exclude)
        self._only = only or None
        self._env = dict(env or {})
        self._root = root
        self._euid = os.geteuid()
        self._hurry = quick_start
        self._lookups = Lookups(root=root, runner=runner, euid=self._euid)
        scheme, separator, path = docker_host.partition("://")
        self._engine = Engine(scheme + separator + below(root, path) if scheme == "unix" else docker_host, ends_at=ends_at)
        self._docker = docker.Finder(self._engine, self._only)
        self._others = podman.Engines(root, self._engine, self._only, self._euid)
        self._pods = k3s.Pods(root, _kubectl() if may_exec else None)
        self._registries = nemoclaw.Registries()
        self._cli = openshellcli.Cli(self._lookups, runner, euid=self._euid)
        self._deep = nemoclawcli.Deep(self._lookups, runner, euid=self._euid) if deep else None

    def discover(self) -> Discovery:
        """Return what is here now. Never raises; what failed is a warning and an unknown runtime."""
        warnings: list[str] = []
        accounts = self._guarded("homes", Accounts((), False), warnings, self._accounts)
        containers = docker.Containers()
        if self._enabled & _IN_CONTAINERS:
            containers = self._guarded("docker", containers, warnings, self._containers)
            if self._enabled & {"podman", "docker"}:
                containers = self._guarded("podman", containers, warnings, lambda: self._with_others(containers, accounts))
            containers = self._guarded("k3s", containers, warnings, lambda: self._with_pods(containers))
            warnings += containers.warnings
        registries: list[nemoclaw.Found] = []
        if "nemoclaw" in self._enabled:
            registries = self._guarded("nemoclaw", registries, warnings, lambda: self._registries.find(accounts.known))
            warnings += ["registry %s: %s" % (shown(found.path), found.error) for found in registries if found.error]
            warnings += ["registry %s: skipped %s" % (shown(found.path), text) for found in registries for text in _skipped(found)]
        bare: list[Sandbox] = []
        trouble: list[str] = []
        closed = trouble
        if "openclaw" in self._enabled:
            bare, closed = self._guarded("openclaw", (bare, closed), warnings, lambda: openclaw.find(accounts.known, self._env, self._root))
            warnings += closed
        answers: tuple[openshellcli.Answer, ...] = ()
        if "openshell" in self._enabled and not self._hurry:
            labelled = frozenset(box.name for box in containers.sandboxes if box.confirmed)
            answers, trouble = self._guarded("openshell", (answers, trouble), warnings, lambda: self._cli.ask(accounts.known, labelled))
            warnings += trouble
        self._hurry = False
        boxes = self._guarded(
            "sandboxes", list(containers.sandboxes), warnings, lambda: self._merged(accounts, containers, registries, answers, warnings)
        )
        chosen = self._chosen(boxes + bare, warnings)
        runtimes = self._runtimes(accounts, containers, registries, boxes, bare, closed, warnings)
        client = next((answer.client for answer in answers if answer.client), None)
        # A user's own binary is asked for its version as that user, when its gateways are.
        runtimes = tuple(replace(row, version=row.version or client) if row.name == "openshell" else row for row in runtimes)
        marked = tuple(_with_default(chosen, nemoclaw.defaults(registries), self._env.get("OPENCLAW_PROFILE", "")))
        view = topology.View(
            lookups=self._lookups,
            accounts=accounts,
            runtimes={row.name: row for row in runtimes},
            containers=containers,
            registries=registries,
            answers=answers,
            boxes=boxes + bare,
        )
        no_layers: tuple[Layer, ...] = ()
        layers = self._guarded("topology", no_layers, warnings, lambda: topology.layers(view))
        asked: Optional[Layer] = self._guarded("blueprint", None, warnings, lambda: topology.blueprint(view))
        return Discovery(runtimes, marked, _few(warnings), layers, asked)

    def _merged(
        self,
        accounts: Accounts,
        containers: docker.Containers,
        registries: Sequence[nemoclaw.Found],
        answers: Sequence[openshellcli.Answer],
        warnings: list[str],
    ) -> list[Sandbox]:
        """One row per sandbox: containers get what their gateway tells, then their registry entry; what is left are rows of their own."""
        joined, left, trouble = merging.join(containers.sandboxes, answers, nemoclaw.owners(registries))
        warnings += trouble
        pods_in = k3s.cluster_containers(containers.gateways)
        boxes, trouble = nemoclaw.merge(joined, registries, pods_in=pods_in, engine_answered=containers.error is None)
        boxes = merging.add(boxes, left)
        warnings += trouble
        if self._deep is not None and "nemoclaw" in self._enabled:
            told, trouble = self._deep.ask(accounts.known, registries)
            boxes = nemoclawcli.apply(boxes, told)
            warnings += trouble
        return boxes

    def _containers(self) -> docker.Containers:
        """Ask the engine; where plain Docker was not asked for, keep what carries OpenShell's labels only."""
        containers = self._docker.find()
        if "docker" in self._enabled or (containers.podman and "podman" in self._enabled):
            return containers
        labelled = tuple(box for box in containers.sandboxes if box.confirmed and self._enabled & {"nemoclaw", "openshell"})
        return replace(containers, sandboxes=labelled)

    def _with_others(self, containers: docker.Containers, accounts: Accounts) -> docker.Containers:
        found = self._lookups.kept("podman sockets", lambda: podman.sockets(self._root, accounts))
        return self._others.add_to(containers, [socket for socket in found if socket.kind in self._enabled])

    def _with_pods(self, containers: docker.Containers) -> docker.Containers:
        pods, trouble = self._pods.find(containers.clusters)
        return replace(containers, sandboxes=(*containers.sandboxes, *pods), warnings=(*containers.warnings, *trouble))

    def _accounts(self) -> Accounts:
        def read() -> Accounts:
            return read_accounts(root=self._root, homes=self._homes, env=self._env, euid=self._euid)

        return self._lookups.kept("accounts", read)

    def _guarded(self, name: str, otherwise: T, warnings: list[str], look: Callable[[], T]) -> T:
        """Return look(), or OTHERWISE with a warning: one broken runtime must not hide the others."""
        try:
            return look()
        except Exception as exc:
            warnings.append("%s: %s" % (name, shown(str(exc) or type(exc).__name__)))
            return otherwise

    def _chosen(self, boxes: list[Sandbox], warnings: list[str]) -> list[Sandbox]:
        """Apply NEMOCLAW_SANDBOX, include and exclude; sort containers before bare homes, by name."""
        only = self._only
        if only is not None:
            boxes = [box for box in boxes if only in (box.name, box.id, box.uid) or _container_is(box, only)]
            if not boxes:
                warnings.append("sandbox %s was asked for (NEMOCLAW_SANDBOX) and not found" % shown(only))
        boxes = [
            box
            for box in boxes
            if any(fnmatch.fnmatchcase(box.name, pattern) for pattern in self._include)
            and not any(fnmatch.fnmatchcase(box.name, pattern) for pattern in self._exclude)
        ]
        return sorted(boxes, key=_rank)

    def _runtimes(
        self,
        accounts: Accounts,
        containers: docker.Containers,
        registries: Sequence[nemoclaw.Found],
        boxes: Sequence[Sandbox],
        bare: Sequence[Sandbox],
        closed: Sequence[str],
        warnings: list[str],
    ) -> tuple[Runtime, ...]:
        lookups = self._lookups
        in_containers = [box for box in boxes if box.container is not None]
        labelled = [box for box in in_containers if box.confirmed]
        live = [box for box in labelled if any(text.startswith("registry ") for text in box.evidence)]
        podman_host, podman_version = (self._engine.host, containers.version) if containers.podman else self._others.answering("podman")
        probes: dict[str, Callable[[], Runtime]] = {
            "nemoclaw": lambda: nemoclaw.probe(lookups=lookups, accounts=accounts, registries=registries, live=len(live)),
            "openshell": lambda: openshell.probe(lookups=lookups, accounts=accounts, gateways=containers.gateways, sandboxes=len(labelled)),
            "docker": lambda: docker.probe(containers, host=self._engine.host, lookups=lookups, other=self._others.answering("docker")),
            "podman": lambda: podman.probe(lookups=lookups, accounts=accounts, answered_by=podman_host, version=podman_version),
            "k3s": lambda: k3s.probe(lookups=lookups, gateways=containers.gateways),
            "openclaw": lambda: openclaw.probe(lookups=lookups, accounts=accounts, homes=bare, containers=in_containers, trouble=closed),
        }
        rows = []
        for name in RUNTIMES:
            if name not in self._enabled:
                rows.append(Runtime(name, None, evidence=(NOT_ASKED,)))
                continue
            failed = Runtime(name, None, evidence=("looking for it failed",))
            rows.append(self._guarded(name, failed, warnings, probes[name]))
        return tuple(rows)


def _kubectl() -> Optional[k3s.Ask]:
    """Return what asks kubectl; None in the snapshot module, with which it does not travel (P7)."""
    try:
        ask: k3s.Ask = import_module(".kubectl", __package__).ask
    except ImportError:
        return None
    return ask


def _skipped(found: nemoclaw.Found) -> tuple[str, ...]:
    return found.registry.skipped[:5] if found.registry else ()


def _few(warnings: Sequence[str]) -> tuple[str, ...]:
    """Return each warning once, and no more than people read: a gateway or registry may give reason for thousands."""
    each = tuple(dict.fromkeys(warnings))
    left = len(each) - MAX_WARNINGS
    return each if left <= 0 else (*each[:MAX_WARNINGS], "%d more warnings" % left)


def _container_is(box: Sandbox, wanted: str) -> bool:
    """Is WANTED the id of the box's container, whole or as short as docker ps shows it?"""
    return box.container is not None and len(wanted) >= 12 and box.container.container_id.startswith(wanted)


def _rank(box: Sandbox) -> tuple[bool, bool, bool, str, str]:
    """Sort key: confirmed before candidates, what can be reached before bare registry rows, containers before homes."""
    unreachable = box.container is None and box.home is None
    return (not box.confirmed, unreachable, box.type == "bare", box.name, box.uid)


def _with_default(boxes: Sequence[Sandbox], defaults: Sequence[tuple[str, str]], profile: str = "") -> list[Sandbox]:
    """Mark exactly one box as default: the first registry default that is among them, else the first in order.

    Among bare homes alone, that of OPENCLAW_PROFILE comes first.
    """
    if not boxes:
        return []
    chosen = boxes[0].uid
    if boxes[0].type == "bare" and profile:
        state = b".openclaw-" + profile.encode("utf-8", "surrogateescape")
        chosen = next((box.uid for box in boxes if box.home is not None and box.home.state == state), chosen)
    for path, name in defaults:
        named = [box for box in boxes if box.name == name and "registry " + path in box.evidence]
        if named:
            chosen = named[0].uid
            break
    return [replace(box, default=box.uid == chosen) for box in boxes]


def discover(
    *,
    enabled: Sequence[str] = RUNTIMES,
    docker_host: str = DEFAULT_HOST,
    homes: Union[str, Sequence[str]] = "auto",
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    only: Optional[str] = None,
    env: Optional[Mapping[str, str]] = None,
    root: str = "/",
    runner: run.Runner = run.run,
    deep: bool = False,
    may_exec: bool = False,
    ends_at: float = float("inf"),
) -> Discovery:
    """Look at the host once; the arguments are Discoverer's."""
    return Discoverer(
        enabled=enabled,
        docker_host=docker_host,
        homes=homes,
        include=include,
        exclude=exclude,
        only=only,
        env=env,
        root=root,
        runner=runner,
        deep=deep,
        may_exec=may_exec,
        ends_at=ends_at,
    ).discover()
