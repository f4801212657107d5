# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""``scripts/install.sh`` on real systemd hosts without any network: the story of an installation, what is refused, no secret seen.

What is installed is the artefact (``ansible-galaxy collection build``), unpacked and read-only.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.sandbox import LABEL, docker

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = {"bookworm": "3.11", "trixie": "3.13", "noble": "3.12"}
CACHE = Path(os.environ.get("CLAWMETRY_TEST_CACHE") or Path.home() / ".cache" / "clawmetry-sync-tests")
# What a host is, before and after: kind, mode, owner, size and time of change. Not systemd's own, nor the times of /tmp.
LOOK = r"""
find /etc /opt /usr /home /root /srv /var -xdev \( -path /var/lib/systemd -o -path /var/log -o -path /var/tmp \) -prune \
  -o -not -name __pycache__ -not -name '*.pyc' -printf '%p %y %m %u %s %T@\n'
find /tmp -xdev -mindepth 1 -not -path '*/systemd-private-*' -not -name '.*-unix' -printf '%p\n'
"""
# Looks for secrets in every command line and environment for as long as a run takes; of itself it shows nothing.
WATCH = r"""
import glob, os, sys, time
needles = [open(name, "rb").read().strip() for name in sys.argv[1:]]
assert all(len(needle) > 20 for needle in needles)
print("watching", flush=True)
rounds = 0
while not os.path.exists("/run/watched"):
    rounds += 1
    time.sleep(0.02)
    for name in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
        try:
            with open(name, "rb") as stream:
                data = stream.read()
        except OSError:
            continue
        if any(needle in data for needle in needles):
            print("SEEN in", name, data.replace(b"\0", b" ")[:60], flush=True)
print("rounds", rounds, flush=True)
"""


@dataclass(frozen=True)
class Run:
    code: int
    said: str

    @property
    def changed(self) -> int:
        found = re.search(r"localhost +: ok=\d+ +changed=(\d+) .* failed=0 ", self.said)
        assert found is not None, self.said
        return int(found.group(1))


@dataclass(frozen=True)
class Host:
    """A container with systemd that has only loopback; /clawmetry is the unpacked collection, /wheels the packages."""

    id: str

    def sh(self, script: str, *, user: str = "root", check: bool = True, stdin: bytes = b"") -> str:
        return docker("exec", "-i", "-u", user, "-w", "/", self.id, "sh", "-c", script, stdin=stdin, check=check, timeout_s=300).decode()

    def install(self, *options: str, user: str = "root", script: str = "/clawmetry/scripts/install.sh", **environment: str) -> Run:
        """Run the script without a terminal."""
        home = "/root" if user == "root" else "/home/" + user
        flags = [flag for name, value in {"HOME": home, **environment}.items() for flag in ("-e", "%s=%s" % (name, value))]
        argv = ["docker", "exec", "-u", user, "-w", "/", *flags, self.id, script, *options]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=420, check=False, text=True
        )
        return Run(done.returncode, done.stdout)

    def look(self) -> list[str]:
        return sorted(self.sh(LOOK).splitlines())

    def key(self, path: str, text: str, *, owner: str = "root", mode: str = "0600") -> str:
        self.sh('umask 077; cat >"%s"; chown %s "%s"; chmod %s "%s"' % (path, owner, path, mode, path), stdin=text.encode() + b"\n")
        return path


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artefact of this checkout, unpacked."""
    scratch = tmp_path_factory.mktemp("artefact")
    copy = subprocess.check_output([ROOT / "tests/support/copy_collection.sh", scratch], text=True).strip()
    subprocess.check_output(
        [sys.executable, "-m", "ansible", "galaxy", "collection", "build", "--output-path", scratch, copy],
        env={"PATH": os.environ["PATH"], "HOME": str(scratch), "ANSIBLE_HOME": str(scratch / "home"), "LC_ALL": "C.UTF-8"},
    )
    (artefact,) = scratch.glob("clawmetry-sync-*.tar.gz")
    unpacked = scratch / "unpacked"
    unpacked.mkdir()
    subprocess.check_call(["tar", "-xzf", artefact, "-C", unpacked])
    scratch.chmod(0o755)
    return unpacked


def wheels(codename: str) -> Path:
    """The packages for one distribution, filled by the script itself on this machine, once."""
    pins = b"".join((ROOT / name).read_bytes() for name in ("requirements/quickstart.txt", "roles/daemon/files/requirements.txt"))
    kept = CACHE / ("install-%s-%s" % (PYTHONS[codename], hashlib.sha256(pins).hexdigest()[:16]))
    if not kept.exists():
        fresh = kept.with_name(kept.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        environment = {**os.environ, "PIP_PYTHON_VERSION": PYTHONS[codename]}
        subprocess.check_call([ROOT / "scripts/install.sh", "--make-offline", fresh], env=environment, stdin=subprocess.DEVNULL)
        fresh.rename(kept)
    return kept


@contextlib.contextmanager
def host(codename: str, collection: Path) -> Iterator[Host]:
    image = "clawmetry-test/install:" + codename
    if not docker("image", "ls", "--quiet", image):
        pytest.skip("no image %s on this machine: tests/support/engine.sh makes those of Debian, on Debian" % image)
    options = ["--cap-add=SYS_ADMIN", "--cap-add=SYS_PTRACE", "--cap-add=DAC_READ_SEARCH", "--tmpfs=/run", "--tmpfs=/run/lock"]
    options += ["--network=none", "--add-host=clawhost:127.0.0.1", "--hostname=clawhost", "--stop-signal=SIGRTMIN+3", "--pull=never"]
    options += ["--volume=/sys/fs/cgroup:/sys/fs/cgroup:ro"]
    options += ["--volume=%s:/clawmetry:ro" % collection, "--volume=%s:/wheels:ro" % wheels(codename)]
    name = "cmtest-" + uuid.uuid4().hex[:8]
    made = docker("run", "--detach", "--label=" + LABEL, "--name", name, *options, image).decode().strip()
    try:
        machine = Host(made)
        machine.sh("for i in $(seq 60); do systemctl is-system-running --wait && break; sleep 0.5; done >/dev/null 2>&1", check=False)
        machine.sh("useradd -m -s /bin/sh ann; useradd -m -s /bin/sh bob; chmod 0755 /home/ann /home/bob")
        machine.sh("umask 0337; echo 'ann ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/ann")
        yield machine
    finally:
        docker("rm", "-f", "-v", made, check=False)


@contextlib.contextmanager
def watched(machine: Host, *files: str) -> Iterator[None]:
    """While this lasts, no secret of FILES is in the arguments or the environment of any process."""
    machine.sh("rm -f /run/watched")
    argv = ["docker", "exec", "-i", machine.id, "python3", "-Ic", WATCH, *files]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "watching\n"
        try:
            yield
        finally:
            machine.sh("touch /run/watched")
            seen = watcher.stdout.read()
    assert "SEEN" not in seen, seen
    assert int(seen.split()[-1]) > 20, "it looked too seldom: %s" % seen


def secret() -> str:
    """256 bits as keygen prints them."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


@pytest.mark.root
def test_root_on_debian_12_tries_installs_upgrades_and_removes(collection: Path) -> None:
    with host("bookworm", collection) as machine:
        before = machine.look()
        users = machine.sh("cat /etc/passwd /etc/group")

        dry = machine.install("--offline", "/wheels", "--dry-run")
        assert dry.code == 0 and dry.changed > 5, dry.said
        assert "+ExecStart=" in dry.said, "a dry run shows the changes"
        assert machine.look() == before

        first = machine.install("--offline", "/wheels")
        assert first.code == 0 and first.changed > 5, first.said
        assert "on the host" in first.said and "none that this user can see" in first.said
        assert machine.sh("systemctl is-active clawmetry; systemctl is-enabled clawmetry; clawmetry status | head -1").split() == [
            "active", "enabled", "ok",
        ]  # fmt: skip
        key = machine.sh("cat /etc/clawmetry/encryption_key")

        # What is installed needs no packages again, so neither a network nor --offline.
        again = machine.install()
        assert again.code == 0 and again.changed == 0, again.said

        machine.sh("cp -r /clawmetry /srv/newer; sed -i 's/^VERSION = .*/VERSION = \"99.0.0\"/' /srv/newer/plugins/module_utils/version.py")
        upgrade = machine.install(script="/srv/newer/scripts/install.sh")
        assert upgrade.code == 0 and upgrade.changed > 0, upgrade.said
        assert machine.sh("clawmetry --version; systemctl is-active clawmetry").split() == ["clawmetry", "99.0.0", "active"]
        assert machine.sh("cat /etc/clawmetry/encryption_key") == key
        machine.sh("rm -r /srv/newer")

        removed = machine.install("--uninstall")
        assert removed.code == 0, removed.said
        kept = {line.split()[0] for line in machine.look()} - {line.split()[0] for line in before}
        assert {"/etc/clawmetry/encryption_key", "/var/lib/clawmetry"} <= kept
        own = r"/etc/clawmetry|/var/lib/clawmetry|/etc/(passwd|group|shadow|gshadow|subuid|subgid)-$"
        assert not [path for path in kept if not re.match(own, path)]

        refused = machine.install("--uninstall", "--purge")
        assert refused.code == 2 and "--yes" in refused.said, "the archive is not destroyed unasked"
        purged = machine.install("--uninstall", "--purge", "--yes", "--offline", "/wheels")
        assert purged.code == 0, purged.said
        left = {line.split()[0] for line in machine.look()} - {line.split()[0] for line in before}
        assert not [path for path in left if not re.match(r"/etc/(passwd|group|shadow|gshadow|subuid|subgid)-$", path)]
        assert machine.sh("cat /etc/passwd /etc/group") == users
        assert machine.sh("find /root /tmp -mindepth 1 -name '*ansible*' -o -mindepth 1 -name '*clawmetry*'") == ""


@pytest.mark.root
@pytest.mark.parametrize("codename", ["trixie", "noble"])
def test_sudo_user_installs_with_keys_that_nobody_sees(collection: Path, codename: str) -> None:
    api_key, encryption_key = "cm_" + secrets.token_hex(20), secret()
    with host(codename, collection) as machine:
        before = machine.look()
        users = machine.sh("cat /etc/passwd /etc/group")
        files = machine.key("/home/ann/api key", api_key, owner="ann"), machine.key("/home/ann/encryption", encryption_key, owner="ann")
        options = ("--offline", "/wheels", "--api-key-file", files[0], "--encryption-key-file=" + files[1])

        with watched(machine, *files):
            dry = machine.install(*options, "--dry-run", "--verbose", user="ann")
            first = machine.install(*options, "--verbose", user="ann")
            assert first.code == 0 and first.changed > 5, first.said
            again = machine.install(*options, user="ann")
        assert dry.code == 0 and dry.changed > 5, dry.said
        assert again.code == 0 and again.changed == 0, again.said
        assert "sudo       is used once" in again.said
        assert machine.sh("stat -c '%a %U' /etc/clawmetry/api_key /etc/clawmetry/encryption_key") == "600 root\n600 root\n"
        assert machine.sh("cat /etc/clawmetry/api_key /etc/clawmetry/encryption_key") == api_key + "\n" + encryption_key + "\n"

        # At its most talkative, with an ingest that is out of reach.
        machine.sh(
            "cd /run/systemd/system; mkdir clawmetry.service.d; line=$(grep ^ExecStart= /etc/systemd/system/clawmetry.service);"
            "printf '[Service]\\nExecStart=\\n%s\\n' \"${line% run} --log-level debug run\" >clawmetry.service.d/debug.conf;"
            "systemctl daemon-reload && systemctl restart clawmetry && sleep 3 && systemctl is-active clawmetry"
        )
        shown = machine.sh("journalctl --no-pager --output=verbose; systemctl show clawmetry", check=False)
        shown += machine.sh("clawmetry status --json; clawmetry doctor", check=False)
        assert "ingest.clawmetry.com" in shown
        assert "--log-level debug run" in shown
        machine.sh("rm -r /run/systemd/system/clawmetry.service.d; systemctl daemon-reload")
        for said in (dry.said, first.said, again.said, shown):
            assert api_key not in said and encryption_key.rstrip("=") not in said
        pattern = "-e %s -e %s" % (api_key, encryption_key.rstrip("="))
        places = machine.sh("grep -rlF --exclude-dir=proc --exclude-dir=sys %s / 2>/dev/null || true" % pattern).splitlines()
        assert {place for place in places if not place.startswith("/run/credentials/")} == {
            *files, "/etc/clawmetry/api_key", "/etc/clawmetry/encryption_key",
        }  # fmt: skip

        purged = machine.install("--uninstall", "--purge", "--yes", user="ann")
        assert purged.code == 0, purged.said
        machine.sh("rm /home/ann/encryption '/home/ann/api key'")
        left = {line.split()[0] for line in machine.look()} - {line.split()[0] for line in before}
        assert not [path for path in left if not re.match(r"/etc/(passwd|group|shadow|gshadow|subuid|subgid)-$|/var/lib/sudo", path)]
        assert machine.sh("cat /etc/passwd /etc/group") == users


@pytest.fixture(scope="module")
def untouched(collection: Path) -> Iterator[Host]:
    """A host on which everything is refused; at the end it is as it was."""
    with host("bookworm", collection) as machine:
        machine.sh("mkdir -p /srv/bin /srv/empty; printf '#!/bin/sh\\necho Plan9\\n' >/srv/bin/uname; chmod 755 /srv/bin/uname")
        machine.key("/srv/key", "0123456789abcdefghijklmnopqrst")
        machine.key("/srv/loose", "0123456789abcdefghijklmnopqrst", mode="0640")
        machine.key("/srv/bobs", "0123456789abcdefghijklmnopqrst", owner="bob")
        machine.sh(": >/srv/nothing; chmod 600 /srv/nothing; ln -s key /srv/link")
        before = machine.look()
        yield machine
        assert machine.look() == before


REFUSED = {
    "key file missing": (["--api-key-file", "/srv/none"], "there is none of this name", "mode 0600"),
    "key file open to a group": (["--api-key-file=/srv/loose"], "others than its owner", "chmod 0600"),
    "key file a link": (["--encryption-key-file", "/srv/link"], "or a link", "mode 0600"),
    "key file empty": (["--api-key-file", "/srv/nothing"], "0 bytes", "on one line"),
    "key file of another user": (["--api-key-file", "/srv/bobs"], "belongs to uid", "chown"),
    "API key alone": (["--api-key-file", "/srv/key"], "nothing leaves this host unsealed", "encryption_key"),
    "mode unknown": (["--mode", "cloud"], "--mode is host or sandbox", "--help"),
    "value missing": (["--offline"], "--offline wants a value", "--help"),
    "no such directory": (["--offline", "/srv/none"], "wants a directory", "--make-offline"),
    "purge of nothing": (["--purge"], "goes with --uninstall", "--uninstall --purge"),
    "keys at removal": (["--uninstall", "--api-key-file", "/srv/key"], "neither keys nor a mode", "--uninstall"),
    "fill and install": (["--make-offline", "/srv/x", "--offline", "/wheels"], "no other option", "--make-offline DIR"),
    "secret as an option": (["--api-key=cm_thesecret"], "unknown option --api-key.", "--help"),
}  # fmt: skip


@pytest.mark.root
def test_the_watcher_itself_sees_a_secret_in_an_environment(untouched: Host) -> None:
    with pytest.raises(AssertionError, match="SEEN in /proc/[0-9]+/environ"), watched(untouched, "/srv/key"):
        untouched.sh("KEY=$(cat /srv/key) sh -c 'sleep 2; :'")


@pytest.mark.root
@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_the_first_change_with_what_to_do(untouched: Host, case: str) -> None:
    options, what, what_next = REFUSED[case]
    run = untouched.install(*options)
    assert run.code == 2, run.said
    assert what in run.said and what_next in run.said.split("Next: ")[1], run.said
    assert "cm_thesecret" not in run.said and "0123456789" not in run.said


@pytest.mark.root
def test_other_systems_are_refused(untouched: Host) -> None:
    run = untouched.install(PATH="/srv/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    assert run.code == 2 and "this is Plan9" in run.said and "Next: " in run.said, run.said


@pytest.mark.root
def test_inside_a_sandbox_the_host_is_named_with_the_reason(untouched: Host) -> None:
    run = untouched.install("--offline", "/wheels", OPENSHELL_SANDBOX="build-7")
    assert run.code == 2 and "inside of a sandbox" in run.said and "on the host" in run.said.split("Next: ")[1], run.said


@pytest.mark.root
def test_sandbox_mode_is_refused_while_the_collection_cannot(untouched: Host, collection: Path) -> None:
    if (collection / "roles/sandbox_daemon").exists():
        pytest.skip("this collection has the role")
    run = untouched.install("--mode", "sandbox")
    assert run.code == 2 and "no role sandbox_daemon" in run.said and "--mode host" in run.said.split("Next: ")[1], run.said


@pytest.mark.root
def test_a_user_who_may_not_is_told_and_asked_nothing(untouched: Host) -> None:
    run = untouched.install("--offline", "/wheels", user="bob")
    assert run.code == 2 and "sudo asks for a password" in run.said and "as root" in run.said, run.said


@pytest.mark.root
def test_on_a_terminal_it_asks_and_takes_no_for_an_answer(untouched: Host) -> None:
    ask = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(['/clawmetry/scripts/install.sh', '--offline', '/wheels'])))"
    said = untouched.sh('python3 -Ic "%s"; echo "code $?"' % ask, stdin=b"n\n")
    assert "Go on? [y/N]" in said and "nothing was changed" in said and "code 2" in said, said


@pytest.mark.root
def test_packages_that_are_missing_are_told_before_the_daemon_is_touched(untouched: Host) -> None:
    run = untouched.install("--offline", "/srv/empty", "--dry-run")
    assert run.code != 0 and "--make-offline" in run.said.split("Next: ")[1], run.said
