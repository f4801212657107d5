# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host with systemd and a Docker engine of its own, and plays against it. It has no network but what is made in it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.sandbox import HOST_IMAGE, LABEL, docker, until

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("CLAWMETRY_TEST_CACHE") or Path.home() / ".cache" / "clawmetry-sync-tests")
REQUIREMENTS = ROOT / "roles/daemon/files/requirements.txt"
# What systemd and a nested engine need, short of --privileged.
OPTIONS = (
    *("--network=none", "--stop-signal=SIGRTMIN+3", "--cgroupns=host", "--tmpfs=/run", "--tmpfs=/run/lock"),
    *("--cap-add=SYS_ADMIN", "--cap-add=NET_ADMIN", "--cap-add=SYS_PTRACE", "--cap-add=SYS_MODULE", "--cap-add=MKNOD"),
    *("--cap-add=DAC_READ_SEARCH", "--cap-add=SYSLOG", "--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined"),
    *("--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw", "--mount=type=volume,target=/var/lib/docker"),
)
LOOK = r"""
find /etc /opt /usr /srv /var -xdev \
  \( -path /var/lib/systemd -o -path /var/lib/docker -o -path /var/lib/containerd -o -path /var/log \) -prune \
  -o -not -name __pycache__ -not -name '*.pyc' -printf '%p %y %m %u %s\n'
"""


@dataclass(frozen=True)
class Play:
    code: int
    said: str

    @property
    def changed(self) -> int:
        found = re.search(r" : ok=\d+ +changed=(\d+) .* failed=0 ", self.said)
        assert found is not None, self.said[-5000:]
        return int(found.group(1))


@dataclass(frozen=True)
class NestedHost:
    name: str
    scratch: Path

    def sh(self, script: str, *arguments: str, stdin: bytes = b"", check: bool = True) -> str:
        """Run a shell script on the host as root; $1… are ARGUMENTS."""
        return docker("exec", "-i", self.name, "sh", "-c", script, "sh", *arguments, stdin=stdin, check=check).decode()

    def docker(self, *argv: str, stdin: bytes = b"", check: bool = True) -> str:
        """Run the host's own Docker CLI."""
        return docker("exec", "-i", self.name, "docker", *argv, stdin=stdin, check=check).decode()

    def look(self) -> list[str]:
        return sorted(self.sh(LOOK).splitlines())

    @property
    def pid(self) -> int:
        return int(docker("inspect", "-f", "{{.State.Pid}}", self.name))

    def play(self, book: str, variables: dict[str, Any], *options: str) -> Play:
        """Run a playbook of the collection against the host; VARIABLES go by a closed file."""
        inventory = {"all": {"hosts": {self.name: {"ansible_connection": "docker_exec", "ansible_python_interpreter": "/usr/bin/python3"}}}}
        (self.scratch / "inventory.json").write_text(json.dumps(inventory))
        file = self.scratch / "variables.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(variables))
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.scratch),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_CONNECTION_PLUGINS": str(ROOT / "extensions/molecule/plugins/connection"),
            "ANSIBLE_HOME": str(self.scratch / "ansible"),
            "ANSIBLE_INJECT_FACT_VARS": "false",
            "ANSIBLE_PIPELINING": "true",
            "ANSIBLE_REMOTE_TEMP": "/tmp/ansible",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
        }
        argv = [sys.executable, "-m", "ansible", "playbook", "-i", self.scratch / "inventory.json", "-e", "@%s" % file, *options, book]
        done = subprocess.run(
            argv,
            env=environment,
            cwd=self.scratch,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=420,
            check=False,
            text=True,
        )
        return Play(done.returncode, done.stdout)


@contextlib.contextmanager
def nested_host(name: str, scratch: Path, *images: str) -> Iterator[NestedHost]:
    """A host called NAME whose engine has IMAGES."""
    docker("run", "--detach", "--pull=never", "--label=" + LABEL, "--name", name, "--hostname", name, *OPTIONS, HOST_IMAGE)
    host = NestedHost(name, scratch)
    try:
        until(lambda: bool(host.docker("version", "--format", "{{.Server.Version}}", check=False).strip()), 60, "engine in the host", 0.5)
        for image in images:
            load = ["docker", "exec", "-i", name, "docker", "load", "--quiet"]
            with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:
                subprocess.run(load, stdin=saved.stdout, check=True, capture_output=True)
        yield host
    finally:
        docker("rm", "-f", "-v", name, check=False)


def wheels(version: str) -> Path:
    """Return a directory with the daemon's packages for a Python as ``3.11``, fetched once."""
    kept = CACHE / ("wheels-%s-%s" % (version, hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:16]))
    if not kept.exists():
        fresh = kept.with_name("%s.new-%d" % (kept.name, os.getpid()))
        options = ["--quiet", "--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:", "--python-version", version]
        subprocess.check_call([sys.executable, "-m", "pip", "download", *options, "--dest", fresh, "-r", REQUIREMENTS])
        with contextlib.suppress(OSError):
            fresh.rename(kept)
    return kept
