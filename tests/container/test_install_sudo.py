# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""``scripts/install.sh`` on real systemd hosts without any network, as a user with sudo who brings keys that nobody else sees."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

import pytest

from support.installhost import DISTRIBUTIONS, host, secret
from support.watch import watched


@pytest.mark.root
@pytest.mark.parametrize("codename", DISTRIBUTIONS)
def test_sudo_user_installs_with_keys_that_nobody_sees(collection: Path, codename: str) -> None:
    api_key, encryption_key = "cm_" + secrets.token_hex(20), secret()
    with host(codename, collection) as machine:
        before = machine.look()
        users = machine.sh("cat /etc/passwd /etc/group")
        files = machine.key("/home/ann/api key", api_key, owner="ann"), machine.key("/home/ann/encryption", encryption_key, owner="ann")
        options = ("--offline", "/wheels", "--api-key-file", files[0], "--encryption-key-file=" + files[1])

        with watched(machine.id, *files):
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
