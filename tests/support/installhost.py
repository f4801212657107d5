# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts with systemd to install on: one container each of the supported distributions, made by ``engine.sh up``.

What is installed is the artefact (``ansible-galaxy collection build``), unpacked and read-only.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.sandbox import LABEL, docker

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "clawmetry-test/install:"
HUNG_S = 1800  # of one command; a busy machine takes minutes
# Debian 12, Debian 13 and Ubuntu 24.04, each with its Python
DISTRIBUTIONS = {"bookworm": "3.11", "trixie": "3.13", "noble": "3.12"}
CACHE = Path(os.environ.get("CLAWMETRY_TEST_CACHE") or Path.home() / ".cache" / "clawmetry-sync-tests")
# What a host is, before and after: kind, mode, owner, size and time of change. Not systemd's own, nor the times of /tmp.
LOOK = r"""
find /etc /opt /usr /home /root /srv /var -xdev \( -path /var/lib/systemd -o -path /var/log -o -path /var/tmp \) -prune \
  -o -not -name __pycache__ -not -name '*.pyc' -printf '%p %y %m %u %s %T@\n'
find /tmp -xdev -mindepth 1 -not -path '*/systemd-private-*' -not -name '.*-unix' -printf '%p\n'
"""


@dataclass(frozen=True)
class Run:
    code: int
    said: str

    @property
    def changed(self) -> int:
        found = re.search(r"^\S+ +: ok=\d+ +changed=(\d+) .* failed=0 ", self.said, re.MULTILINE)
        assert found is not None, self.said
        return int(found.group(1))


@dataclass(frozen=True)
class Host:
    """A container with systemd; /clawmetry is the unpacked collection, /wheels the packages, the network usually loopback alone."""

    id: str
    collection: Path

    def sh(self, script: str, *, user: str = "root", check: bool = True, stdin: bytes = b"") -> str:
        return docker("exec", "-i", "-u", user, "-w", "/", self.id, "sh", "-c", script, stdin=stdin, check=check, timeout_s=HUNG_S).decode()

    def install(self, *options: str, user: str = "root", script: str = "/clawmetry/scripts/install.sh", **environment: str) -> Run:
        """Run the script without a terminal."""
        home = "/root" if user == "root" else "/home/" + user
        flags = [flag for name, value in {"HOME": home, **environment}.items() for flag in ("-e", "%s=%s" % (name, value))]
        argv = ["docker", "exec", "-u", user, "-w", "/", *flags, self.id, script, *options]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=HUNG_S, check=False, text=True
        )
        return Run(done.returncode, done.stdout)

    def play(self, scratch: Path, playbook: str, *options: str, **variables: Any) -> Run:
        """Run a playbook of the collection on this machine against the host, at its most talkative and with its changes shown."""
        extra = scratch / "extra.json"
        extra.touch(mode=0o600)
        extra.write_text(json.dumps({"ansible_connection": "docker_exec", "ansible_python_interpreter": "/usr/bin/python3", **variables}))
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(scratch),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": str(self.collection.parents[2]),
            "ANSIBLE_CONNECTION_PLUGINS": str(ROOT / "extensions/molecule/plugins/connection"),
            "ANSIBLE_LOCAL_TEMP": str(scratch / "local"),
            "ANSIBLE_PIPELINING": "true",
            "ANSIBLE_INJECT_FACT_VARS": "false",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
        }
        argv = [sys.executable, "-m", "ansible", "playbook", "-i", self.id + ",", "-e", "@%s" % extra, "-vvv", "--diff", *options]
        done = subprocess.run(
            [*argv, "clawmetry.sync." + playbook], env=environment, cwd=scratch, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=HUNG_S, check=False, text=True,
        )  # fmt: skip
        return Run(done.returncode, done.stdout)

    def look(self) -> list[str]:
        return sorted(self.sh(LOOK).splitlines())

    def key(self, path: str, text: str, *, owner: str = "root", mode: str = "0600") -> str:
        self.sh('umask 077; cat >"%s"; chown %s "%s"; chmod %s "%s"' % (path, owner, path, mode, path), stdin=text.encode() + b"\n")
        return path


def unpacked_collection(scratch: Path) -> Path:
    """The artefact of this checkout, unpacked where Ansible finds it below SCRATCH/collections."""
    copy = subprocess.check_output([ROOT / "tests/support/copy_collection.sh", scratch], text=True).strip()
    subprocess.check_output(
        [sys.executable, "-m", "ansible", "galaxy", "collection", "build", "--output-path", scratch, copy],
        env={"PATH": os.environ["PATH"], "HOME": str(scratch), "ANSIBLE_HOME": str(scratch / "home"), "LC_ALL": "C.UTF-8"},
    )
    (artefact,) = scratch.glob("clawmetry-sync-*.tar.gz")
    unpacked = scratch / "collections/ansible_collections/clawmetry/sync"
    unpacked.mkdir(parents=True)
    subprocess.check_call(["tar", "-xzf", artefact, "-C", unpacked])
    scratch.chmod(0o755)
    return unpacked


def wheels(codename: str) -> Path:
    """The packages for one distribution, filled by the script itself on this machine, once."""
    pins = b"".join((ROOT / name).read_bytes() for name in ("requirements/quickstart.txt", "roles/daemon/files/requirements.txt"))
    kept = CACHE / ("install-%s-%s" % (DISTRIBUTIONS[codename], hashlib.sha256(pins).hexdigest()[:16]))
    if not kept.exists():
        environment = {**os.environ, "PIP_PYTHON_VERSION": DISTRIBUTIONS[codename]}
        with tempfile.TemporaryDirectory(dir=CACHE) as directory:
            fresh = Path(directory) / "wheels"
            subprocess.check_call([ROOT / "scripts/install.sh", "--make-offline", fresh], env=environment, stdin=subprocess.DEVNULL)
            try:
                fresh.rename(kept)
            except OSError:
                if not kept.exists():  # else another worker was faster, with the same packages
                    raise
    return kept


@contextlib.contextmanager
def host(codename: str, collection: Path, *, network: str = "none") -> Iterator[Host]:
    """Start a host of a distribution, with the users ann (who has sudo) and bob, and COLLECTION and its packages mounted."""
    options = ["--cap-add=SYS_ADMIN", "--cap-add=SYS_PTRACE", "--cap-add=DAC_READ_SEARCH", "--tmpfs=/run", "--tmpfs=/run/lock"]
    options += ["--network=" + network, "--add-host=clawhost:127.0.0.1", "--hostname=clawhost", "--stop-signal=SIGRTMIN+3", "--pull=never"]
    options += ["--volume=/sys/fs/cgroup:/sys/fs/cgroup:ro"]
    options += ["--volume=%s:/clawmetry:ro" % collection, "--volume=%s:/wheels:ro" % wheels(codename)]
    name = "cmtest-" + uuid.uuid4().hex[:8]
    made = docker("run", "--detach", "--label=" + LABEL, "--name", name, *options, IMAGE + codename).decode().strip()
    try:
        machine = Host(made, collection)
        machine.sh("for i in $(seq 60); do systemctl is-system-running --wait && break; sleep 0.5; done >/dev/null 2>&1", check=False)
        # What a distribution does at certain times of the day is nothing to find on a host that was looked at before.
        machine.sh("systemctl stop '*.timer'")
        machine.sh("useradd -m -s /bin/sh ann; useradd -m -s /bin/sh bob; chmod 0755 /home/ann /home/bob")
        machine.sh("umask 0337; echo 'ann ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/ann")
        yield machine
    finally:
        docker("rm", "-f", "-v", made, check=False)


def secret() -> str:
    """256 bits as keygen prints them."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
