# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sandbox containers on the local engine, named and labelled as OpenShell does it. Needs ``engine.sh up``.

Nothing is ever pulled, and every container carries ``LABEL``.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Optional, Sequence

from support.tree import Tree, dumps

# By this label ``engine.sh sweep`` finds what a killed run left behind; scripts/test says which run this is.
LABEL = "clawmetry-test=" + os.environ.get("CLAWMETRY_TEST_RUN", "1")

SANDBOX_IMAGE = "clawmetry-test/sandbox:1"
HOST_IMAGE = "clawmetry-test/host:1"
OPENCLAW_IMAGE = "ghcr.io/nvidia/openshell-community/sandboxes/openclaw:test"
CUDA_IMAGE = "nvidia/cuda:test"
STATE = "/sandbox/.openclaw"


def docker(*argv: str, stdin: Optional[bytes] = None, check: bool = True, timeout_s: float = 120) -> bytes:
    """Run the Docker CLI and return its stdout. Raises AssertionError with its stderr when it fails and CHECK."""
    given: dict[str, Any] = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    done = subprocess.run(("docker",) + argv, capture_output=True, timeout=timeout_s, check=False, **given)
    if check and done.returncode:
        raise AssertionError("docker %s: %s" % (" ".join(argv)[:300], done.stderr.decode("utf-8", "replace")))
    return done.stdout


@dataclass(frozen=True)
class Sandbox:
    """A running container; ``name`` is what OpenShell calls it, ``container`` what Docker does."""

    name: str
    container: str
    id: str  # 64 hex digits

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    def sh(self, script: str, *arguments: str, stdin: Optional[bytes] = None, user: str = "998", check: bool = True) -> bytes:
        """Run a busybox shell script inside, by default as the agent's user; $1… are ARGUMENTS."""
        flags = ["-i"] if stdin is not None else []
        return docker("exec", *flags, "-u", user, self.id, "/bin/sh", "-c", script, "sh", *arguments, stdin=stdin, check=check)

    def start_sh(self, script: str, *arguments: str, user: str = "998") -> None:
        """As ``sh``, in the background."""
        docker("exec", "-d", "-u", user, self.id, "/bin/sh", "-c", script, "sh", *arguments)

    def put_tree(self, tree: Tree, state: str = STATE) -> None:
        """Unpack a tree below STATE, owned by the agent's user."""
        argv = ("docker", "exec", "-i", self.id, "tar", "-x", "-f", "-", "-C", "/")
        with subprocess.Popen(argv, stdin=subprocess.PIPE) as child:
            if child.stdin is None:
                raise AssertionError("no pipe")
            tree.to_tar(child.stdin, state)
            child.stdin.close()
        if child.returncode:
            raise AssertionError("tar in %s ended with %d" % (self.container, child.returncode))

    def append(self, session_file: str, *events: Any, agent: str = "main", state: str = STATE) -> None:
        """Append EVENTS to a transcript from inside, as one write."""
        path = "%s/agents/%s/sessions/%s" % (state, agent, session_file)
        self.sh('mkdir -p "${1%/*}"; cat >>"$1"', path, stdin=b"".join(map(dumps, events)))

    def start_writer(self, session_file: str, *, lines: int, pause_every: int = 50, agent: str = "main", state: str = STATE) -> None:
        """Append LINES numbered lines from inside, a tenth of a second of pause after each PAUSE_EVERY."""
        path = "%s/agents/%s/sessions/%s" % (state, agent, session_file)
        self.start_sh(
            'mkdir -p "${1%/*}"; i=0; while [ $i -lt $2 ]; do '
            'printf \'{"type":"message","seq":%d}\\n\' $i >>"$1"; i=$((i+1)); '
            '[ $((i % $3)) != 0 ] || usleep 100000; done; : >"$1.done.lock"',
            path,
            str(lines),
            str(pause_every),
        )

    def written(self, session_file: str, *, agent: str = "main", state: str = STATE) -> list[Any]:
        """Return the events that are in a transcript now, complete lines only."""
        raw = self.sh('cat "$1"', "%s/agents/%s/sessions/%s" % (state, agent, session_file))
        return [json.loads(line) for line in raw.split(b"\n")[:-1] if line]

    @property
    def pid(self) -> int:
        return int(docker("inspect", "-f", "{{.State.Pid}}", self.id))

    def stop(self) -> None:
        docker("stop", "-t", "1", self.id)

    def start(self) -> None:
        docker("start", self.id)

    def remove(self) -> None:
        docker("rm", "-f", "-v", self.id, check=False)


def run_container(
    name: str,
    container: str,
    image: str,
    *,
    labels: Optional[Mapping[str, str]] = None,
    options: Sequence[str] = (),
    command: Sequence[str] = (),
) -> Sandbox:
    """Run a container of the tests and return it. The image must be here: nothing is ever pulled."""
    flags = ["--label", LABEL, "--network", "none", "--name", container]
    for key, value in (labels or {}).items():
        flags += ["--label", "%s=%s" % (key, value)]
    full_id = docker("create", "--pull", "never", *flags, *options, image, *command).decode().strip()
    docker("start", full_id)
    return Sandbox(name, container, full_id)


def _labels(name: str, sandbox_id: str) -> dict[str, str]:
    return {
        "openshell.ai/managed-by": "openshell",
        "openshell.ai/sandbox-id": sandbox_id,
        "openshell.ai/sandbox-name": name,
        "openshell.ai/sandbox-namespace": "default",
    }


def openshell_0_0_72(name: str, *, sandbox_id: Optional[str] = None, options: Sequence[str] = ()) -> Sandbox:
    """A sandbox as the Docker driver of OpenShell 0.0.37 to 0.0.87 makes it."""
    sandbox_id = sandbox_id or str(uuid.uuid4())
    return run_container(name, "openshell-%s-%s" % (name, sandbox_id), OPENCLAW_IMAGE, labels=_labels(name, sandbox_id), options=options)


def openshell_0_0_111(
    name: str, *, workspace: str = "default", sandbox_id: Optional[str] = None, options: Sequence[str] = ()
) -> Sandbox:
    """As OpenShell 0.0.94 to 0.0.111 does: the workspace in name and labels, the image by its id alone."""
    sandbox_id = sandbox_id or str(uuid.uuid4())
    image = docker("image", "inspect", "-f", "{{.Id}}", OPENCLAW_IMAGE).decode().strip()
    labels = {**_labels(name, sandbox_id), "openshell.ai/sandbox-workspace": workspace}
    container = "openshell-%s--%s-%s" % (workspace, name, sandbox_id)
    return run_container(name, container, image, labels=labels, options=options)


def unrelated_cuda() -> Sandbox:
    """A container of an NVIDIA image that is no sandbox."""
    return run_container("cuda", "clawmetry-test-cuda-%s" % uuid.uuid4().hex[:8], CUDA_IMAGE)


def until(condition: Callable[[], bool], timeout_s: float = 30.0, what: str = "condition", every_s: float = 0.05) -> None:
    """Wait for CONDITION. Raises AssertionError after TIMEOUT_S."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("no %s within %g s" % (what, timeout_s))
        time.sleep(every_s)
