# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The layers of NemoClaw's architecture on this host, from its command down to the sandbox, and what its blueprint asks for.

Each layer says whether it is there, with evidence, or that it is unknown, with the reason. Small by
design: names, versions, ports and counts, never a file's content. Sources: reference/nemoclaw.md
§1, 2, 6, reference/openshell.md §2, 5 (the proxy listens on 10.200.0.1:3128 until 0.0.111).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import partial
from typing import Mapping, Optional, Sequence

from ..errors import Unreadable, shown
from ..model import Layer, Runtime, Sandbox
from ..read.opener import HeldDir
from . import docker, k3s, nemoclaw, openshell
from .accounts import Account, Accounts, below
from .binaries import Binary, Lookups
from .gateways import Gateway, gateways, listening, processes, read_text
from .names import clean
from .openshellcli import Answer

PROXY_PORT = 3128
MAX_SHOWN = 10
MAX_PROBED = 50
MAX_HOMES = 1000
MAX_BLUEPRINT = 256 * 1024
# Presence only; these are the files that decide what a host's sandboxes are, or that an operator backs up or guards.
STATE_FILES = (
    b".nemoclaw/sandboxes.json",
    b".nemoclaw/gateways",
    b".nemoclaw/config.json",
    b".nemoclaw/onboard-session.json",
    b".nemoclaw/credentials.json",
    b".nemoclaw/state",
    b".nemoclaw/rebuild-backups",
    b".nemoclaw/source",
    b".config/openshell/active_gateway",
    b".config/openshell/gateways",
    b".local/state/openshell",
    b".local/state/nemoclaw",
)
_SCALAR = re.compile(r"""(version|min_openshell_version|min_openclaw_version):\s*(["']?)([0-9A-Za-z.+-]{1,40})\2\s*(?:#.*)?""")
_PLUGIN = re.compile(rb'"version"\s*:\s*"([0-9A-Za-z.+-]{1,40})"')
_NVM = re.compile(r"/\.nvm/versions/node/v(\d{1,4}(?:\.\d{1,4}){0,2})/bin/")


@dataclass(frozen=True)
class View:
    """What one discovery pass found, as far as the layers are told from it."""

    lookups: Lookups
    accounts: Accounts
    runtimes: Mapping[str, Runtime]
    containers: docker.Containers
    registries: Sequence[nemoclaw.Found]
    answers: Sequence[Answer]
    boxes: Sequence[Sandbox]


def layers(view: View) -> tuple[Layer, ...]:
    """Return the layers from the top: model.LAYERS."""
    lookups, runtimes, containers = view.lookups, view.runtimes, view.containers
    pids = lookups.kept("openshell processes", lambda: openshell.gateway_processes(lookups.root))
    known = gateways(
        accounts=view.accounts.known,
        answers=view.answers,
        registries=view.registries,
        containers=containers,
        running=lookups.kept("gateway processes %s" % pids, lambda: processes(lookups.root, pids)),
        boxes=view.boxes,
    )
    return (
        _host_cli(lookups, view.accounts, runtimes["nemoclaw"]),
        _engine(runtimes["docker"], runtimes["podman"], containers),
        _gateway(known, runtimes["openshell"]),
        _k3s(containers, runtimes["k3s"]),
        _sandboxes(view.boxes, containers),
        _proxy(lookups, view.boxes, containers),
        lookups.kept("state files", lambda: _state_files(view.accounts.known)),
    )


def _host_cli(lookups: Lookups, accounts: Accounts, row: Runtime) -> Layer:
    version: Optional[str] = None
    where: Optional[str] = None
    evidence = list(row.evidence[:3])
    if row.path is not None:
        in_nvm = _NVM.search(row.path)
        node: Optional[Binary] = None
        if in_nvm is not None:
            version, where = in_nvm.group(1), row.path[: in_nvm.end()] + "node"
        else:
            node = lookups.beside(row.path, "node", accounts.known)
            node = node or lookups.binary("node", [account for account in accounts.known if account.name == row.user])
        if node is not None:
            in_nvm = _NVM.search(node.path)
            version, where = node.version or (in_nvm.group(1) if in_nvm else None), node.path
            evidence += node.evidence[1:]
        elif where is None:
            evidence.append("no Node found beside it")
    present = row.present
    if row.path is None:
        # Its sandboxes may outlive it.
        present = False if accounts.complete else None
        if row.present is not False:
            evidence.append("no binary or source%s" % ("" if accounts.complete else " where we may look"))
    details = (("version", row.version), ("path", row.path), ("user", row.user), ("node", {"version": version, "path": where}))
    return Layer("host_cli", present, details, tuple(dict.fromkeys(evidence)))


def _engine(docker_row: Runtime, podman_row: Runtime, containers: docker.Containers) -> Layer:
    """An engine may be installed and not run: ``running`` is whether one answers."""
    row = docker_row if docker_row.present is True or podman_row.present is not True else podman_row
    known = row.present is True
    running = True if containers.version is not None or row.version is not None else None
    if running is None and containers.error is not None and containers.error.kind in ("absent", "refused"):
        running = False
    details = (("kind", row.name if known else None), ("version", row.version if known else None), ("running", running))
    return Layer("engine", row.present, details, row.evidence[:2])


def _gateway(known: Sequence[Gateway], row: Runtime) -> Layer:
    listed = [
        {
            "name": item.name,
            "user": item.user,
            "kind": item.kind,
            "driver": item.driver,
            "port": item.port,
            "running": item.running,
            "version": item.version,
            "evidence": list(item.evidence[:4]),
        }
        for item in known
    ]
    present: Optional[bool] = True if any(item.running for item in known) else False if row.present is False else None
    reason = "%d running" % sum(1 for item in known if item.running)
    if known and all(item.running is False for item in known):
        present, reason = False, "registered, and none of them runs"
    elif not known:
        reason = "no registration, container or process of a gateway"
        present = False if row.present is not None else None
    elif not present:
        reason = "known by name, and nothing tells whether it runs"
    return Layer("gateway", present, (("gateways", listed),), (reason,))


def _k3s(containers: docker.Containers, row: Runtime) -> Layer:
    clusters = [item for item in containers.gateway_rows if item.name.startswith(k3s.CLUSTER_PREFIX)]
    if clusters:
        asked = containers.error is None
        running = any(item.state == "running" for item in clusters) if asked else None
        names = [clean(item.name) for item in clusters[:MAX_SHOWN]]
        return Layer("k3s", True, (("embedded", True), ("running", running), ("containers", names)), row.evidence[:2])
    embedded = False if containers.error is None else None
    details: tuple[tuple[str, object], ...] = (("embedded", embedded), ("running", None), ("containers", []))
    present = row.present
    evidence = row.evidence[:2]
    if containers.error is not None and present is False:
        present, evidence = None, (*evidence, "the engine, in which it would run, could not be asked")
    return Layer("k3s", present, details, evidence)


def _sandboxes(boxes: Sequence[Sandbox], containers: docker.Containers) -> Layer:
    confirmed = [box for box in boxes if box.confirmed]
    kinds = {"containers": 0, "pods": 0, "bare": 0, "elsewhere": 0}
    for box in confirmed:
        kinds[_kind(box)] += 1
    running = sum(1 for box in confirmed if box.status == "running")
    evidence = ["%s: %s" % (box.name, box.evidence[0] if box.evidence else box.reason) for box in confirmed[:3]]
    present: Optional[bool] = bool(confirmed)
    if not confirmed:
        present = False if containers.error is None or containers.error.kind == "absent" else None
        evidence.append("none is labelled, registered or listed" + ("" if present is False else "; the engine could not be asked"))
    return Layer("sandbox", present, (*kinds.items(), ("running", running)), tuple(evidence))


def _kind(box: Sandbox) -> str:
    if box.type == "bare":
        return "bare"
    if box.uid.startswith(("k3s:", "pod:")):
        return "pods"
    return "containers" if box.container is not None else "elsewhere"


def _proxy(lookups: Lookups, boxes: Sequence[Sandbox], containers: docker.Containers) -> Layer:
    """Is the proxy that checks requests there: a listener on its port in the sandbox's network, or 0.1.x's companion?

    The agent is one network namespace further in, so that the listener is not its own.
    """
    running = [box for box in boxes if box.type == "nemoclaw" and box.container is not None and box.container.pid > 0][:MAX_PROBED]
    pids = tuple(box.container.pid for box in running if box.container is not None)
    tables = lookups.kept("proxies %s" % (pids,), lambda: tuple(_listens(lookups.root, pid) for pid in pids))
    seen = sum(1 for found in tables if found)
    evidence = []
    if seen:
        evidence.append("port %d listens in the network of %d sandbox(es)" % (PROXY_PORT, seen))
    if containers.companions:
        evidence.append("%d supervisor container(s) beside their workloads" % containers.companions)
    present: Optional[bool] = True if evidence else None
    if not evidence and not running:
        evidence.append("no running sandbox to look at")
    elif not evidence:
        present = None if None in tables else False
        evidence.append("not seen in %d running sandbox(es)%s" % (len(running), "; not all could be looked at" if None in tables else ""))
    return Layer("proxy", present, (("port", PROXY_PORT if seen else None), ("sandboxes", seen + containers.companions)), tuple(evidence))


def _listens(root: str, pid: int) -> Optional[bool]:
    tables = [read_text(below(root, "/proc/%d/net/%s" % (pid, name))) for name in ("tcp", "tcp6")]
    return any(port == PROXY_PORT for table in tables for port, _inode in listening(table)) if tables[0] else None


def _state_files(accounts: Sequence[Account]) -> Layer:
    """Which of NemoClaw's and OpenShell's own files each user has: presence by name, nothing is opened."""
    found: list[dict[str, object]] = []
    evidence: list[str] = []
    unreadable: list[str] = []
    for account in accounts[:MAX_HOMES]:
        names: list[str] = []
        try:
            with HeldDir.hold(os.fsencode(account.path)) as home:
                for path in STATE_FILES:
                    directory, _slash, name = path.rpartition(b"/")
                    try:
                        with home.open_dir(directory) as held:
                            if held.stat(name) is not None:
                                names.append("~/" + path.decode("ascii"))
                    except FileNotFoundError:
                        continue
        except Unreadable as exc:
            unreadable.append("%s: %s" % (shown(account.home), exc.cause or exc.what))
        if names:
            found.append({"user": account.name, "files": names})
            evidence.append("%d of %s" % (len(names), shown(account.name or account.home)))
    evidence = evidence[:3] + unreadable[:3]
    present: Optional[bool] = True if found else None if unreadable else False
    return Layer("state_files", present, (("users", found[:MAX_SHOWN]),), tuple(evidence) or ("none of them in any home",))


def blueprint(view: View) -> Layer:
    """Return what NemoClaw's installed source asks of OpenShell and OpenClaw, and whether they are as new as that."""
    look = partial(_find_blueprint, view.accounts.known, view.lookups.root, view.runtimes["nemoclaw"].path)
    text, plugin, where, user, evidence = view.lookups.kept("blueprint", look)
    wanted = parse_blueprint(text)
    openshell_version = view.runtimes["openshell"].version
    agents = sorted({box.agent_version for box in view.boxes if box.agent == "openclaw" and box.agent_version is not None}, key=_numbers)
    details = (
        ("version", wanted.get("version")),
        ("min_openshell_version", wanted.get("min_openshell_version")),
        ("min_openclaw_version", wanted.get("min_openclaw_version")),
        ("openshell_satisfied", _at_least(openshell_version, wanted.get("min_openshell_version"))),
        ("openclaw_satisfied", _at_least(agents[0] if agents else None, wanted.get("min_openclaw_version"))),
        ("plugin_version", plugin),
        ("path", where),
        ("user", user),
    )
    found = list(evidence)
    if where is not None:
        found.append("openshell %s" % (openshell_version or "version unknown"))
        found.append("openclaw %s" % (agents[0] + " (the oldest recorded)" if agents else "version not recorded in a registry"))
    present = True if wanted else None if where is not None or evidence else False
    return Layer("blueprint", present, details, tuple(found) or ("no installed source with a blueprint",))


_Found = tuple[str, Optional[str], Optional[str], Optional[str], tuple[str, ...]]


def _find_blueprint(accounts: Sequence[Account], root: str, program: Optional[str]) -> _Found:
    """Return (text, plugin version, path, user, trouble) of the first source that has one: the installer's, or the one linked to."""
    trouble = []
    linked = os.path.dirname(os.path.dirname(os.path.realpath(below(root, program)))) if program else ""
    for account in accounts:
        places = [b".nemoclaw/source"]
        if linked.startswith(account.path + "/"):
            places.append(os.fsencode(linked[len(account.path) + 1 :]))
        for place in places:
            path = "%s/%s/nemoclaw-blueprint/blueprint.yaml" % (account.home, shown(place))
            try:
                with HeldDir.hold(os.fsencode(account.path)) as home:
                    data, _seen = home.read_small(place + b"/nemoclaw-blueprint/blueprint.yaml", MAX_BLUEPRINT)
                    plugin = _plugin_version(home, place)
                return data.decode("utf-8", "replace"), plugin, path, account.name, ("blueprint " + path,)
            except FileNotFoundError:
                continue
            except Unreadable as exc:
                if os.path.lexists(account.path):
                    trouble.append(str(exc))
    return "", None, None, None, tuple(trouble[:3])


def _plugin_version(home: HeldDir, place: bytes) -> Optional[str]:
    try:
        data, _seen = home.read_small(place + b"/nemoclaw/openclaw.plugin.json", MAX_BLUEPRINT)
    except (FileNotFoundError, Unreadable):
        return None
    match = _PLUGIN.search(data)
    return match.group(1).decode("ascii") if match else None


def parse_blueprint(text: str) -> dict[str, str]:
    """Return the three versions at the top level of a blueprint.yaml: ``min_openshell_version: "0.0.72"  # why``."""
    found: dict[str, str] = {}
    for line in text.splitlines()[:5000]:
        match = _SCALAR.fullmatch(line.rstrip())
        if match is not None:
            found.setdefault(match.group(1), match.group(3))
    return found


def _numbers(version: Optional[str]) -> tuple[int, ...]:
    match = re.match(r"v?(\d{1,9}(?:\.\d{1,9}){0,3})", version or "")
    return tuple(int(part) for part in match.group(1).split(".")) if match else ()


def _at_least(version: Optional[str], minimum: Optional[str]) -> Optional[bool]:
    """Is VERSION new enough? None when either is not known. Pre-releases count as what they lead to."""
    have, need = _numbers(version), _numbers(minimum)
    return have >= need if have and need else None
