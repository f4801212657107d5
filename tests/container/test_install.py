# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""``scripts/install.sh`` on real systemd hosts without any network, as root: the story of an installation, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.installhost import DISTRIBUTIONS, Host, host, secret
from support.watch import watched


@pytest.mark.root
@pytest.mark.parametrize("codename", DISTRIBUTIONS)
def test_root_tries_installs_upgrades_and_removes(collection: Path, codename: str) -> None:
    with host(codename, collection) as machine:
        before = machine.look()
        users = machine.sh("cat /etc/passwd /etc/group")
        litter = "find /root /tmp -mindepth 1 -name '*ansible*' -o -mindepth 1 -name '*clawmetry*'"
        lay_there = machine.sh(litter)

        dry = machine.install("--offline", "/wheels", "--dry-run")
        assert dry.code == 0 and dry.changed > 5, dry.said
        assert "+ExecStart=" in dry.said, "a dry run shows the changes"
        assert machine.look() == before

        first = machine.install("--offline", "/wheels", "--verbose")
        assert first.code == 0 and first.changed > 5, first.said
        assert "on the host" in first.said and "none that this user can see" in first.said
        assert machine.sh("systemctl is-active clawmetry; systemctl is-enabled clawmetry; clawmetry status | head -1").split() == [
            "active", "enabled", "ok",
        ]  # fmt: skip
        # The key was made here: whoever installs never sees it.
        key = machine.sh("cat /etc/clawmetry/encryption_key")
        shown = machine.sh("journalctl --no-pager --output=verbose; systemctl show clawmetry", check=False)
        shown += machine.sh("clawmetry doctor; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null", check=False)
        assert "clawmetry.service" in shown and key.rstrip("=\n") not in first.said + shown

        # Into the sandboxes it would go where there is an engine; here it is refused, before the first change.
        looked = machine.look()
        keys = machine.key("/root/a", "cm_0123456789"), machine.key("/root/k", secret())
        inside = machine.install("--mode", "sandbox", "--api-key-file", keys[0], "--encryption-key-file", keys[1], "--sandbox", "build-7")
        why = (1, "no engine socket") if machine.sh("command -v docker", check=False) else (2, "the command docker, and there is none")
        assert inside.code == why[0] and why[1] in inside.said, inside.said
        machine.sh("rm /root/a /root/k")
        assert {line.split()[0] for line in machine.look()} == {line.split()[0] for line in looked}

        # The same packages are needed by the next release, so neither a network nor --offline.
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
        assert machine.sh(litter) == lay_there

        machine.sh("ln -s ../lib/of/another /usr/local/bin/clawmetry")
        before = machine.look()
        refused = machine.install("--offline", "/wheels")
        assert refused.code == 2 and "/usr/local/bin/clawmetry is there and not from here" in refused.said, refused.said
        assert machine.look() == before


@pytest.fixture(scope="module", params=DISTRIBUTIONS)
def untouched(request: pytest.FixtureRequest, collection: Path) -> Iterator[Host]:
    """A host on which everything is refused; at the end it is as it was."""
    with host(request.param, collection) as machine:
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
    "keys at removal": (["--uninstall", "--api-key-file", "/srv/key"], "takes no keys", "--uninstall"),
    "sandboxes without keys": (["--mode", "sandbox"], "needs both keys", "--mode sandbox --api-key-file FILE"),
    "one sandbox in host mode": (["--sandbox", "build-7"], "goes with --mode sandbox", "--mode sandbox --sandbox NAME"),
    "purge of a sandbox": (["--uninstall", "--purge", "--mode=sandbox"], "nothing is kept in a sandbox", "leave --purge out"),
    "fill and install": (["--make-offline", "/srv/x", "--offline", "/wheels"], "no other option", "--make-offline DIR"),
    "secret as an option": (["--api-key=cm_thesecret"], "unknown option --api-key.", "--help"),
}  # fmt: skip


@pytest.mark.root
def test_the_watcher_itself_sees_a_secret_in_an_environment(untouched: Host) -> None:
    with pytest.raises(AssertionError, match="SEEN in /proc/[0-9]+/environ"), watched(untouched.id, "/srv/key"):
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
