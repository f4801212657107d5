# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Facts of the host itself: names, architecture, and whether we are inside a container or sandbox.

A Docker host must not be taken for a container: what its own mounts and a stray /.dockerenv say is
no evidence. Trusted are the kernel's own marks: the initial pid namespace (its number is fixed in
linux/proc_ns.h), the cgroup and root mount of process 1, and files that only engines put into /run.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import platform
import re
from dataclasses import dataclass
from typing import Mapping, Optional

from .discover.accounts import below

# PROC_PID_INIT_INO of linux/proc_ns.h: the host's own pid namespace, on every Linux.
INITIAL_PID_NAMESPACE = "pid:[4026531836]"
_APPLICATION = b"clawmetry.sync node 1"
_ENGINE_CGROUP = re.compile(
    r"/(?:docker|libpod|cri-containerd|crio)[-/][0-9a-f]{64}|/kubepods[./-]|/lxc(?:\.payload)?[./]|/machine\.slice/libpod-[0-9a-f]{64}"
)
_ENGINE_LAYERS = (
    "/docker/overlay2/",
    "/containers/storage/overlay/",
    "/io.containerd.snapshotter",
    "/docker/rootfs/overlayfs/",
    "/docker/vfs/dir/",
)
_OPENSHELL_COMM = ("openshell-sandb",)  # 15 characters are kept
_SMALL = 1024 * 1024


@dataclass(frozen=True)
class HostInfo:
    """Who this host is. ``node_id`` is the configured or answered id; None means the hostname stands for it."""

    hostname: str
    os: str  # linux | darwin | ...
    os_name: str  # Linux | Darwin
    os_release: str
    arch: str
    python_version: str
    machine_id_hash: Optional[str] = None
    in_container: Optional[bool] = None
    in_sandbox: Optional[bool] = None
    evidence: tuple[str, ...] = ()
    node_id: Optional[str] = None
    in_chroot: Optional[bool] = None


def gather(
    *, node_id: Optional[str] = None, root: str = "/", env: Optional[Mapping[str, str]] = None, system: Optional[str] = None
) -> HostInfo:
    """Look at the host once. ``root`` is a prefix for made-up hosts; ``env`` defaults to our own environment."""
    name = platform.system() if system is None else system
    in_container, evidence = container(root, name)
    in_sandbox, more = sandbox(root, os.environ if env is None else env, in_container)
    in_chroot, why = chroot(root, name)
    return HostInfo(
        hostname=platform.node(),
        os=name.lower(),
        os_name=name,
        os_release=platform.release(),
        arch=platform.machine(),
        python_version=platform.python_version(),
        machine_id_hash=machine_id_hash(text_of(root, "/etc/machine-id")),
        in_container=in_container,
        in_chroot=in_chroot,
        in_sandbox=in_sandbox,
        evidence=evidence + why + more,
        node_id=node_id,
    )


def machine_id_hash(machine_id: str) -> Optional[str]:
    """Return a keyed SHA-256 of the machine id (32 hex digits): machine-id(5) asks never to show the id itself."""
    value = machine_id.strip()
    if not re.fullmatch(r"[0-9a-f]{32}", value):
        return None
    return hmac.new(value.encode("ascii"), _APPLICATION, hashlib.sha256).hexdigest()[:32]


def root_mount(mountinfo: str) -> Optional[tuple[str, str]]:
    """Return (type, source directory and options) of what is mounted on "/" in a mountinfo text, None when no line is.

    Sample: ``27 1 254:0 / / rw,relatime - ext4 /dev/vda rw``; the last such line is the one on top. An engine's
    root is an overlay whose options name its layers, or (vfs driver) a directory of the host's own filesystem.
    """
    found = None
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        place, kind = left.split(" "), right.split(" ")
        if separator and len(place) > 4 and place[4] == "/" and len(kind) >= 3:
            found = (kind[0], place[3] + " " + kind[2])
    return found


def container(root: str, system: str = "Linux") -> tuple[Optional[bool], tuple[str, ...]]:
    """Are we in a container? True and False only with evidence, None when the marks are missing or contradict."""
    if system != "Linux":
        return False, ("no Linux containers on " + (system or "this system"),)
    inside = []
    for which in ("1", "self"):
        match = _ENGINE_CGROUP.search(text_of(root, "/proc/%s/cgroup" % which))
        if match:
            inside.append("cgroup of process %s is an engine's (%s)" % (which, match.group(0)[:80]))
        mount = root_mount(text_of(root, "/proc/%s/mountinfo" % which))
        if mount is not None and any(mark in mount[1] for mark in _ENGINE_LAYERS):
            inside.append("root of process %s is an engine's %s" % (which, mount[0]))
    if os.path.exists(below(root, "/run/.containerenv")):
        inside.append("/run/.containerenv exists")
    manager = text_of(root, "/run/systemd/container").strip()
    if manager and manager != "wsl":
        inside.append("/run/systemd/container says " + manager[:40])
    namespace = _link(root, "/proc/self/ns/pid")
    initial = namespace == INITIAL_PID_NAMESPACE
    weak = ["/.dockerenv exists, which alone proves nothing"] if os.path.exists(below(root, "/.dockerenv")) else []
    if inside:
        if initial:
            inside.append("with the host's pid namespace")
        return True, tuple(inside + weak)
    if initial:
        return False, tuple(["initial pid namespace, no engine's mark on process 1"] + weak)
    if _is_wsl(root, manager):
        return False, tuple(["a WSL distribution: its pid namespace and systemd's word for it are WSL's own"] + weak)
    mount = root_mount(text_of(root, "/proc/1/mountinfo"))
    if namespace is not None and weak and mount is not None and mount[0] == "overlay":
        return True, ("own pid namespace, overlay root and /.dockerenv together",)
    reason = "a pid namespace of its own, but no engine's mark" if namespace else "/proc does not tell the pid namespace"
    return None, tuple([reason] + weak)


def _is_wsl(root: str, manager: str) -> bool:
    """Microsoft's kernel, and what WSL itself puts into a distribution; a container on that kernel has only the first."""
    kernel = text_of(root, "/proc/sys/kernel/osrelease").lower()
    return "microsoft" in kernel and (manager == "wsl" or os.path.isdir(below(root, "/run/WSL")) or "wsl2" not in kernel)


def chroot(root: str, system: str = "Linux") -> tuple[Optional[bool], tuple[str, ...]]:
    """Is our root another directory than that of the first process we see? None where that cannot be told."""
    if system != "Linux":
        return None, ()
    ours = text_of(root, "/proc/self/mountinfo")
    if ours and root_mount(ours) is None:
        return True, ("nothing is mounted on / as we see it: a chroot",)
    try:
        mine, first = os.stat(below(root, "/")), os.stat(below(root, "/proc/1/root/"))
    except OSError:
        return None, ()
    if (mine.st_dev, mine.st_ino) == (first.st_dev, first.st_ino):
        return False, ()
    return True, ("/ is not what process 1 has as its root",)


def sandbox(root: str, env: Mapping[str, str], in_container: Optional[bool]) -> tuple[Optional[bool], tuple[str, ...]]:
    """Are we inside an OpenShell sandbox? Its environment variables count only where we are not on a bare host."""
    signs = []
    if text_of(root, "/proc/1/comm").strip() in _OPENSHELL_COMM:
        signs.append("process 1 is openshell-sandbox")
    if env.get("OPENSHELL_SANDBOX") or env.get("OPENSHELL_SANDBOX_ID"):
        signs.append("OPENSHELL_SANDBOX is set")
    if os.path.exists(below(root, "/opt/openshell/bin/openshell-sandbox")):
        signs.append("/opt/openshell/bin/openshell-sandbox exists")
    if in_container is False:
        return False, tuple(sign + ", but this is no container" for sign in signs)
    if in_container is None and len(signs) < 2:
        return (None if signs else False), tuple(signs)
    return bool(signs), tuple(signs)


def text_of(root: str, path: str) -> str:
    """Return a small file of the host as text, "" when it cannot be read."""
    try:
        with open(below(root, path), "rb") as stream:
            return stream.read(_SMALL).decode("utf-8", "replace")
    except (OSError, ValueError):
        return ""


def _link(root: str, path: str) -> Optional[str]:
    try:
        return os.readlink(below(root, path))
    except OSError:
        return None
