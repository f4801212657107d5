# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role on a real host that ClawMetry's own client has connected: beside it, and in its place when told to. No secret is seen."""

from __future__ import annotations

import base64
import io
import json
import re
import secrets
import tarfile
from pathlib import Path

import pytest

from support.decoder import open_blob, seal_blob
from support.ingest import Ingest
from support.installhost import Host, Run, host, secret
from support.node import until
from support.sandbox import docker
from support.tls import make_certificates
from support.upstream import LEGACY_KEY, NODE_ID, OLD_API_KEY, PASSPHRASE, make_upstream_home
from support.watch import watched

OLD_KEY = base64.urlsafe_b64encode(LEGACY_KEY).decode()
SESSIONS = "/root/.openclaw/agents/main/sessions"
AUTHORITY = "/usr/local/share/ca.pem"
# A stand-in for the old daemon, as its installer lays it out: it counts every line as sent as soon as it is there.
OLD_DAEMON = r"""
import glob, json, os, time
home = os.path.expanduser("~/.clawmetry")
with open(home + "/sync.pid", "w") as stream:
    stream.write(str(os.getpid()))
while True:
    with open(home + "/sync-state.json") as stream:
        state = json.load(stream)
    for path in glob.glob("%s/*.jsonl"):
        with open(path, "rb") as stream:
            state["last_event_ids"][os.path.basename(path)] = stream.read().count(b"\n")
    with open(home + "/new", "w") as stream:
        json.dump(state, stream)
    os.replace(home + "/new", home + "/sync-state.json")
    time.sleep(0.2)
""" % SESSIONS
OLD_UNIT = """[Unit]
Description=the old client
[Service]
User=root
Environment=PYTHONPATH=/opt/clawmetry/lib
ExecStart=/opt/clawmetry/bin/python -m clawmetry.sync
Restart=always
[Install]
WantedBy=multi-user.target
"""
LAY_OUT = r"""
mkdir -p /opt/clawmetry/bin /opt/clawmetry/lib/clawmetry %(sessions)s
ln -s /usr/bin/python3 /opt/clawmetry/bin/python
: >/opt/clawmetry/pyvenv.cfg; : >/opt/clawmetry/lib/clawmetry/__init__.py
cat >/opt/clawmetry/lib/clawmetry/sync.py
printf '#!/bin/sh\necho the old client\n' >/opt/clawmetry/bin/clawmetry
chmod 755 /opt/clawmetry/bin/clawmetry; ln -s /opt/clawmetry/bin/clawmetry /usr/local/bin/clawmetry
""" % {"sessions": SESSIONS}
# The agent: whole lines and torn ones, until it is told to stop.
AGENT = r"""
import json, os, time
number = 0
with open("%s/live.jsonl", "ab", buffering=0) as stream:
    while not os.path.exists("/run/enough"):
        line = json.dumps({"type": "message", "seq": number}).encode() + b"\n"
        stream.write(line[:9])
        time.sleep(0.02)
        stream.write(line[9:])
        number += 1
""" % SESSIONS
UNITS = "systemctl is-active clawmetry-sync clawmetry; systemctl is-enabled clawmetry-sync clawmetry 2>&1"


def gateway() -> str:
    """The address at which containers reach this machine."""
    return docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").decode().strip()


def connect(machine: Host, scratch: Path, ingest: Ingest, ca: Path) -> None:
    """Make the host one that the old client has connected and syncs."""
    home = make_upstream_home(scratch / "root", endpoint=ingest.url, cursors={"gone.jsonl": 3})
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(home, ".clawmetry", filter=lambda entry: entry.replace(uid=0, gid=0, uname="root", gname="root"))
    machine.sh("tar -x -C /root", stdin=packed.getvalue())
    machine.sh("cat >" + AUTHORITY, stdin=ca.read_bytes())
    machine.sh(LAY_OUT, stdin=OLD_DAEMON.encode())
    machine.sh("cat >%s/before.jsonl" % SESSIONS, stdin=b"".join(b'{"type":"message","seq":%d}\n' % number for number in range(25)))
    machine.sh("cat >/etc/systemd/system/clawmetry-sync.service", stdin=OLD_UNIT.encode())
    machine.sh("systemctl daemon-reload; systemctl enable --now --quiet clawmetry-sync")
    until(lambda: counted(machine).get("before.jsonl") == 25, 120, "old client that counts")


def counted(machine: Host) -> dict[str, int]:
    found: dict[str, int] = json.loads(machine.sh("cat /root/.clawmetry/sync-state.json"))["last_event_ids"]
    return found


def told(machine: Host) -> str:
    """All that the host tells to whoever asks, the journal at its fullest."""
    units = "systemctl show clawmetry clawmetry-sync; systemctl cat clawmetry"
    shown = machine.sh("journalctl --no-pager --output=verbose; " + units, check=False)
    for verb in ("status --json", "doctor --json", "--log-level debug doctor --deep", "check-config", "snapshot --json"):
        shown += machine.sh("/usr/local/bin/clawmetry-host %s 2>&1" % verb, check=False)
    assert "queue" in shown and "second daemon" in shown, shown
    return shown


def at_debug(machine: Host) -> None:
    machine.sh(
        "cd /run/systemd/system; mkdir -p clawmetry.service.d; line=$(grep ^ExecStart= /etc/systemd/system/clawmetry.service);"
        "printf '[Service]\\nExecStart=\\n%s\\n' \"${line% run} --log-level debug run\" >clawmetry.service.d/debug.conf;"
        "systemctl daemon-reload && systemctl restart clawmetry"
    )


def none_of(needles: tuple[str, ...], *runs: Run, shown: str = "") -> None:
    for text in (*(run.said for run in runs), shown):
        for needle in needles:
            before, found, _after = text.partition(needle.rstrip("="))
            assert not found, "after: %s" % before[-500:]


@pytest.mark.root
def test_a_connected_host_is_taken_over_when_told_to_and_not_before(collection: Path, tmp_path: Path) -> None:
    address = gateway()
    certificates = make_certificates(tmp_path, [address])
    with Ingest(key=OLD_KEY, api_key=OLD_API_KEY, host=address, certificates=certificates) as ingest:
        ingest.canaries += [OLD_KEY.encode(), PASSPHRASE.encode()]
        with host("noble", collection, network="bridge") as machine:
            connect(machine, tmp_path, ingest, certificates.ca)
            not_clobbered(machine, tmp_path)
            beside_it(machine, tmp_path)
            in_its_place(machine, tmp_path, ingest)
        ingest.check()


def not_clobbered(machine: Host, scratch: Path) -> None:
    """The old client's command stays, and the role says so before its first change."""
    before = [line for line in machine.look() if " /root/" not in " " + line]
    run = machine.play(scratch, "site", clawmetry_daemon_wheel_dir="/wheels", clawmetry_daemon_adopt=True)
    assert run.code != 0 and "/usr/local/bin/clawmetry is there, a link to /opt/clawmetry/bin/clawmetry" in run.said, run.said
    assert "set clawmetry_daemon_command" in run.said
    assert [line for line in machine.look() if " /root/" not in " " + line] == before


def beside_it(machine: Host, scratch: Path) -> None:
    """Not told to take over: with keys of its own the daemon runs beside the old one, and goes again without a trace of either kind."""
    keys = "cm_" + secrets.token_hex(20), secret()
    passwords = "pass-" + secrets.token_hex(12), "word-" + secrets.token_hex(12)
    files = [machine.key("/root/needle%d" % number, text) for number, text in enumerate((*keys, *passwords))]
    variables = {
        "clawmetry_daemon_command": "/usr/local/bin/clawmetry-host",
        "clawmetry_daemon_wheel_dir": "/wheels",
        "clawmetry_daemon_api_key": keys[0],
        "clawmetry_daemon_encryption_key": keys[1],
        "clawmetry_daemon_ingest_url": "file:///var/lib/clawmetry/archive",
        "clawmetry_daemon_proxy": "http://ann:%s@127.0.0.1:9" % passwords[0],
        "clawmetry_daemon_pip_proxy": "http://ann:%s@127.0.0.1:9" % passwords[1],
    }
    before = machine.sh("find /opt /root/.clawmetry /usr/local/bin /etc/systemd -not -name __pycache__ -not -name '*.pyc' | sort")
    with watched(machine.id, *files):
        first = machine.play(scratch, "site", **variables)
        assert first.code == 0 and first.changed > 5, first.said
        assert machine.sh(UNITS, check=False).split() == ["active", "active", "enabled", "enabled"]
        at_debug(machine)
        examined = machine.play(scratch, "doctor", clawmetry_daemon_command="/usr/local/bin/clawmetry-host")
        assert "the old client" not in examined.said and "second daemon" in examined.said, examined.said
        shown = told(machine)
        gone = machine.play(scratch, "uninstall", clawmetry_daemon_command="/usr/local/bin/clawmetry-host", clawmetry_daemon_purge=True)
    assert gone.code == 0, gone.said
    none_of((*keys, *passwords), first, examined, gone, shown=shown)
    machine.sh("rm -r /run/systemd/system/clawmetry.service.d /root/needle*; systemctl daemon-reload")
    assert machine.sh("find /opt /root/.clawmetry /usr/local/bin /etc/systemd -not -name __pycache__ -not -name '*.pyc' | sort") == before
    assert machine.sh(UNITS, check=False).split()[:2] == ["active", "inactive"]
    assert machine.sh("clawmetry") == "the old client\n"


def in_its_place(machine: Host, scratch: Path, ingest: Ingest) -> None:
    """Told to, while the agent writes on and the old daemon goes on sending until it is stopped."""
    old_blob = seal_blob({"session_file": "before.jsonl", "events": [{"id": "1"}]}, LEGACY_KEY)
    files = [machine.key("/root/needle%d" % number, text) for number, text in enumerate((OLD_API_KEY, PASSPHRASE, OLD_KEY))]
    variables = {
        "clawmetry_daemon_command": "/usr/local/bin/clawmetry-host",
        "clawmetry_daemon_wheel_dir": "/wheels",
        "clawmetry_daemon_ingest_url": ingest.url,
        "clawmetry_daemon_ca_file": AUTHORITY,
        "clawmetry_daemon_adopt": True,
    }
    docker("exec", "-d", machine.id, "python3", "-Ic", AGENT)
    with watched(machine.id, *files):
        first = machine.play(scratch, "site", **variables)
        assert first.code == 0, first.said
        at_debug(machine)
        machine.sh("touch /run/enough")
        again = machine.play(scratch, "site", **variables)
        assert again.code == 0 and again.changed == 0, again.said
        shown = told(machine)
    none_of((OLD_API_KEY, PASSPHRASE, OLD_KEY), first, again, shown=shown)
    assert machine.sh(UNITS, check=False).split() == ["inactive", "active", "disabled", "enabled"]
    assert "none runs; left by ClawMetry's own client: /root/.clawmetry" in shown

    covered = counted(machine)
    written = int(machine.sh("wc -l <%s/live.jsonl" % SESSIONS))
    assert 0 < covered["live.jsonl"] < written, "the agent wrote before and after: %s of %d" % (covered, written)
    until(lambda: received(ingest, "live.jsonl")[-1:] == [written - 1], 120, "last line")
    assert received(ingest, "live.jsonl") == list(range(covered["live.jsonl"], written))
    assert received(ingest, "before.jsonl") == []
    assert ingest.duplicate_events == 0
    assert {request.headers.get("x-node-id") for request in ingest.requests} == {NODE_ID}
    assert not [request for request in ingest.requests if request.endpoint == "/auth"]
    assert json.loads(machine.sh("/usr/local/bin/clawmetry-host status --json"))["node_id"] == NODE_ID
    key = base64.urlsafe_b64decode(machine.sh("cat /etc/clawmetry/encryption_key").strip())
    assert open_blob(old_blob, key)["events"] == [{"id": "1"}]
    assert machine.sh("stat -c '%a %U' /etc/clawmetry/api_key /etc/clawmetry/encryption_key") == "600 root\n600 root\n"
    assert machine.sh("clawmetry") == "the old client\n"
    pattern = " ".join("-e '%s'" % text.rstrip("=") for text in (OLD_API_KEY, PASSPHRASE, OLD_KEY))
    places = machine.sh("grep -rlF --exclude-dir=proc --exclude-dir=sys %s / 2>/dev/null || true" % pattern).splitlines()
    assert {place for place in places if not re.match("/run/credentials/|/root/needle", place)} == {
        "/root/.clawmetry/config.json", "/etc/clawmetry/api_key", "/etc/clawmetry/encryption_key",
    }  # fmt: skip


def received(ingest: Ingest, name: str) -> list[int]:
    found = [text for (_source, file), texts in ingest.events.items() if file == name for text in texts]
    return [json.loads(text)["seq"] for text in found]
