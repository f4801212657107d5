# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""OpenShell's cluster container with pods in it, as the kernel sees them: no k3s, but real nested processes.

Each pod is a process with its own mount, UTS and pid namespace and its own root, in a cgroup named
as kubelet names them below the container's own. The cgroups are made from the host, as root.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.sandbox import SANDBOX_IMAGE, STATE, Sandbox, run_container, until
from support.tree import Tree

_UNCONFINED = ("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined")
# $1 name, $2 the claim's directory or nothing. The new root is the pod's writable layer; a claim is mounted over
# /sandbox in the pod's own mount namespace only, as k3s does it.
_POD = """
root=/pods/$1
mkdir -p $root/bin $root/etc $root/proc $root/old $root/sandbox
cp /bin/busybox $root/bin/busybox
for applet in sh sleep cat mkdir tar stat find printf; do ln -sf busybox $root/bin/$applet; done
printf '%s\\n' "$1" >$root/etc/hostname
chown 998:998 $root/sandbox
mount --make-rprivate /
mount --bind $root $root
[ -z "$2" ] || { mkdir -p "$2"; chown 998:998 "$2"; mount --bind "$2" $root/sandbox; }
cd $root
pivot_root . old
umount -l /old
exec /bin/sh -c 'trap exit TERM; while :; do sleep 3600 & wait; done'
"""


# What stands for kubectl in the cluster's container: it lists what the test says, and enters a pod by its hostname.
KUBECTL = """#!/bin/sh
echo "$5" >>/kubectl.log
[ "$1 $2 $3 $4" = "--kubeconfig=/etc/rancher/k3s/k3s.yaml --request-timeout=8s -n openshell" ] || exit 3
shift 4
case $1 in
get) [ "$*" = "get pods -o json" ] && cat /pods.json ;;
exec)
    [ "$3 $4 $5" = "-c agent --" ] || exit 3
    name=$2
    shift 5
    for each in /proc/[0-9]*; do
        [ "$(cat $each/root/etc/hostname 2>/dev/null)" = "$name" ] && exec nsenter -t ${each#/proc/} -m -p -- "$@"
    done
    exit 1
    ;;
*) exit 3 ;;
esac
"""


def pod_list(*pods: Pod, strangers: tuple[str, ...] = ()) -> str:
    """What ``kubectl get pods -o json`` says of PODS, and of STRANGERS that are no sandboxes."""
    items: list[Any] = []
    for pod in pods:
        labels = {"openshell.ai/managed-by": "openshell", "openshell.ai/sandbox-id": "id-" + pod.name}
        agent = {"name": "agent", "env": [{"name": "TOKEN", "value": "canary"}]}
        metadata = {"name": pod.name, "uid": pod.uid, "labels": labels}
        items.append({"metadata": metadata, "spec": {"containers": [agent]}, "status": {"phase": "Running"}})
    for name in strangers:
        items.append({"metadata": {"name": name, "uid": str(uuid.uuid4())}, "spec": {"containers": [{"name": "x"}]}, "status": {}})
    return json.dumps({"items": items})


@dataclass
class Pod:
    """A nested pod; ``pid`` is its first process as the host sees it."""

    name: str
    uid: str
    pid: int

    @property
    def root(self) -> Path:
        return Path("/proc/%d/root" % self.pid)

    def put_tree(self, tree: Tree, state: str = STATE) -> None:
        """Write a tree below STATE from the host; the pod is ours and honest."""
        for path, content in tree.files.items():
            target = self.root / (state + "/" + path).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    def append(self, session_file: str, data: bytes) -> None:
        target = self.root / (STATE + "/agents/main/sessions/" + session_file).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab") as stream:
            stream.write(data)


def cluster(gateway: str, *, files: tuple[tuple[str, str], ...] = ()) -> Sandbox:
    """Run the cluster container of GATEWAY; FILES are (path, content) of executables to put into it."""
    options = ("--cap-add", "SYS_ADMIN", *_UNCONFINED, "-v", "/var/lib/rancher/k3s")
    box = run_container(gateway, "openshell-cluster-" + gateway, SANDBOX_IMAGE, options=options)
    for path, content in files:
        box.sh('mkdir -p "${1%/*}"; cat >"$1"; chmod 755 "$1"', path, stdin=content.encode(), user="0")
    return box


def _children(pid: int) -> list[int]:
    path = Path("/proc/%d/task/%d/children" % (pid, pid))
    return [int(text) for text in path.read_text().split()]


def start_pod(box: Sandbox, name: str, *, claim: bool = True, visible: bool = True) -> Pod:
    """Start a pod in the cluster container and put it where kubelet would; a claim is what OpenShell uses from 0.0.22 on.

    One that is not ``visible`` has no cgroup of a pod, as if /proc were another machine's.
    """
    uid = str(uuid.uuid4())
    before = set(_all_in(box.id))
    directory = "/var/lib/rancher/k3s/storage/pvc-%s_openshell_workspace-%s" % (uuid.uuid4(), name) if claim else ""
    box.start_sh('exec unshare -m -u -i -p -f /bin/sh -c \'%s\' sh "$1" "$2"' % _POD.replace("'", "'\\''"), name, directory, user="0")

    def first() -> list[int]:
        return [pid for pid in set(_all_in(box.id)) - before if _is_pod(pid, name)]

    until(lambda: bool(first()), what="pod")
    (pid,) = first()
    if visible:
        below = "kubepods/besteffort/pod%s/%s" % (uid, uuid.uuid4().hex * 2)
        refused = _move(box.id, pid, below)
        if refused:  # Seen once in hundreds of pods, on a loaded machine.
            time.sleep(1)
            refused = _move(box.id, pid, below)
        if refused:
            state = Path("/proc/%d/status" % pid).read_text().splitlines()[:3]
            raise AssertionError("no cgroup of %s could be made (uid %d) for %s: %s" % (box.id[:12], os.getuid(), state, refused))
    return Pod(name, uid, pid)


def _is_pod(pid: int, name: str) -> bool:
    try:
        inner = Path("/proc/%d/status" % pid).read_text().split("NSpid:")[1].splitlines()[0].split()
        root = Path("/proc/%d/root" % pid)
        # Its first process, and its old root is unmounted: what it shows now is what it will show.
        ready = len(inner) == 3 and inner[-1] == "1" and (root / "old").is_dir() and not any((root / "old").iterdir())
        return ready and (root / "etc/hostname").read_text().strip() == name
    except (OSError, IndexError):
        return False


def _all_in(container_id: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and container_id in (entry / "cgroup").read_text():
                found.append(int(entry.name))
        except OSError:
            pass
    return found


def _move(container_id: str, pid: int, below: str) -> list[str]:
    """Put PID and what it started into a new cgroup below the container's, in each hierarchy that lets us.

    Returns what was refused: nothing where at least one hierarchy took it, for one is enough to tell a pod.
    """
    moved, refused = False, []
    for line in Path("/proc/%d/cgroup" % pid).read_text().splitlines():
        _number, controllers, path = line.split(":", 2)
        if container_id not in path:
            refused.append(line)
            continue
        mounts = ("/sys/fs/cgroup/" + controllers.replace("name=", ""), "/sys/fs/cgroup/unified", "/sys/fs/cgroup")
        for mount in mounts:
            parent = Path(mount + path)
            if not controllers and mount == mounts[0] or not parent.is_dir():
                continue
            try:
                (parent / below).mkdir(parents=True, exist_ok=True)
                (parent / below / "cgroup.procs").write_text(str(pid))
                moved = True
            except OSError as error:  # cpuset wants its values set first.
                refused.append("%s: %s" % (parent, error))
                break
            # Read after the move: what it starts from now on is there by itself.
            for child in _children(pid):
                with contextlib.suppress(ProcessLookupError):  # The umount of its old root may just be ending.
                    (parent / below / "cgroup.procs").write_text(str(child))
            break
    return [] if moved else refused
