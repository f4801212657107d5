# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The daemon inside a sandbox whose only way out is a proxy that ends TLS and enforces the rule that we render.

The host has systemd and an engine of its own, and no network. The sandbox is on an internal network of that engine;
at its gateway, where OpenShell's supervisor listens too, is support.forward_proxy.
"""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from clawmetry_sync import config
from clawmetry_sync.egress import render, rule
from clawmetry_sync.errors import ConfigError
from clawmetry_sync.inside import look
from support.ingest import Ingest, canonical
from support.nested import ROOT, NestedHost, nested_host, wheels
from support.sandbox import LABEL, OPENCLAW_IMAGE, docker, until
from support.tls import make_certificates
from support.tree import dumps
from support.watch import watched

IMAGE = "clawmetry-test/python-sandbox:1"
INGEST = "ingest.example.org"
PYTHON = "/opt/clawmetry/venv/bin/python3"
LABELS = ("--label", "openshell.ai/managed-by=openshell", "--label", "openshell.ai/sandbox-namespace=default")
SESSION = "/sandbox/.openclaw/agents/main/sessions/one.jsonl"
# What the agent would do with an interpreter that the rule does not name.
AGENTS_ATTEMPT = """
import socket
way = socket.create_connection(("10.200.0.1", 3128))
way.sendall(b"CONNECT %s:8443 HTTP/1.1\\r\\n\\r\\n")
print(way.makefile("rb").read().decode())
""" % INGEST


def event(number: int) -> dict[str, Any]:
    return {"type": "message", "id": "e%d" % number, "message": {"role": "user", "content": "line %d" % number}}


@dataclass
class Box:
    """A sandbox on the nested host, as OpenShell 0.0.72 makes it."""

    host: NestedHost
    name: str
    id: str
    written: int = 0

    def sh(self, script: str, *, user: str = "0", stdin: bytes = b"", check: bool = True) -> str:
        return self.host.docker("exec", "-i", "-u", user, self.id, "sh", "-c", script, stdin=stdin, check=check)

    def append(self, count: int) -> None:
        """The agent writes COUNT events more."""
        events = [event(number) for number in range(self.written, self.written + count)]
        self.written += count
        self.sh("umask 077; mkdir -p %s; cat >>%s" % (SESSION.rsplit("/", 1)[0], SESSION), user="998", stdin=b"".join(map(dumps, events)))

    def clawmetry(self, *arguments: str) -> Any:
        """Run the program in the sandbox and return the JSON it prints."""
        return json.loads(self.host.docker("exec", self.id, "/opt/clawmetry/clawmetry", *arguments, "--json", check=False))

    def daemons(self) -> list[str]:
        return [line for line in self.sh("ps").splitlines() if "clawmetry.yml run" in line]

    def added(self) -> list[str]:
        """What is there beyond the image, apart from the agent's own."""
        return sorted(line for line in self.host.docker("diff", self.id).splitlines() if line[0] in "AD" and "/sandbox/" not in line)


def box_on(host: NestedHost, name: str, *options: str) -> Box:
    labels = (*LABELS, "--label", "openshell.ai/sandbox-name=" + name, "--label", "openshell.ai/sandbox-id=" + secrets.token_hex(4))
    run = ("run", "--detach", "--pull=never", "--user=0", "--env=OPENSHELL_SANDBOX=1", "--name=openshell-%s-1" % name, *labels)
    return Box(host, name, host.docker(*run, *options, IMAGE).strip())


@contextlib.contextmanager
def proxy(host: NestedHost, box: Box, policy: Path, ingest: Ingest, ca: Path, scratch: Path) -> Iterator[Path]:
    """Run the sandbox's way out; yield the file in which it tells what it was asked for."""
    scratch.mkdir()
    log = scratch / "asked"
    log.touch()
    argv = [sys.executable, "-m", "support.forward_proxy", "--listen=10.200.0.1:3128", "--netns=/proc/%d/ns/net" % host.pid]
    argv += ["--container=" + box.id, "--policy=%s" % policy, "--certificates=%s" % scratch, "--log=%s" % log]
    argv += ["--upstream=%s:8443=127.0.0.1:%d" % (INGEST, ingest.port), "--upstream-ca=%s" % ca]
    with subprocess.Popen(argv, cwd=ROOT / "tests", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n"
            yield log
        except BaseException:
            print(host.sh("journalctl --no-pager --lines=60 --output=cat --unit='clawmetry-sandbox@*'"), log.read_text()[-4000:])
            raise
        finally:
            process.kill()


def asked(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.root
def test_events_pass_the_sandboxs_proxy_by_the_rendered_rule_and_nothing_else_does(unique: str, tmp_path: Path) -> None:
    api_key, key = "cm_" + secrets.token_hex(20), base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    made = make_certificates(tmp_path, [INGEST])
    needed = rule.build(ingest_url="https://%s:8443" % INGEST, binary=PYTHON)
    policy = tmp_path / "policy.yaml"
    policy.write_text(render.block(needed))
    variables = {
        "clawmetry_mode": "sandbox",
        "clawmetry_sandbox_daemon_ingest_url": "https://%s:8443" % INGEST,
        "clawmetry_sandbox_daemon_api_key": api_key,
        "clawmetry_sandbox_daemon_encryption_key": key,
        "clawmetry_sandbox_daemon_wheel_dir_on": "controller",
        "clawmetry_sandbox_daemon_settings": {"poll_interval": 0.2},
    }
    with Ingest(key=key, api_key=api_key, certificates=made) as ingest, nested_host(unique, tmp_path, IMAGE) as host:
        version = host.sh("python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'").strip()
        variables["clawmetry_sandbox_daemon_wheel_dir"] = str(wheels(version))
        host.docker("network", "create", "--internal", "--subnet=10.200.0.0/24", "--gateway=10.200.0.1", "box")
        box = box_on(host, "build-7", "--network=box")
        with proxy(host, box, policy, ingest, made.ca, tmp_path / "proxy") as log:
            box.sh("mkdir /etc/openshell-tls; cat >/etc/openshell-tls/ca-bundle.pem", stdin=(tmp_path / "proxy/ca.pem").read_bytes())
            box.append(3)
            host.sh("umask 077; cat >/srv/a", stdin=api_key.encode())
            host.sh("umask 077; cat >/srv/k", stdin=key.rstrip("=").encode())

            # An agent that is root beside it, and nobody has accepted that: nothing is changed anywhere.
            rooted = box_on(host, "rooted", "--network=box")
            rooted.sh("mkdir -p /root/.openclaw/agents/main/sessions")
            before, inside = host.look(), box.added()
            refused = host.play("clawmetry.sync.site", variables)
            assert refused.code != 0 and "clawmetry_sandbox_daemon_accept_tampering: true" in refused.said, refused.said
            assert "its agent is root" in refused.said and "The agent in rooted" in refused.said
            assert (host.look(), box.added()) == (before, inside)
            host.docker("rm", "-f", rooted.id)

            with watched(host.name, "/srv/a", "/srv/k"):
                dry = host.play("clawmetry.sync.site", variables, "--check", "--diff")
                assert dry.changed > 5 and "+ExecStart=" in dry.said
                assert (host.look(), box.added()) == (before, inside)
                first = host.play("clawmetry.sync.site", variables, "--diff", "-vvv")
                assert first.changed > 5
                ingest.wait_events(3)
            assert [row for row in asked(log) if row["verdict"] != "allowed"] == []
            assert {row["binary"] for row in asked(log)} == {PYTHON}
            assert {row["method"] for row in asked(log)} == {"CONNECT", "POST"}
            again = host.play("clawmetry.sync.site", variables)
            assert again.changed == 0, again.said

            out_of_the_agents_reach(box)
            rule_removed_and_back(box, policy, log, ingest)
            survives_its_client(host, box)
            secrets_are_where_they_belong(host, box, (api_key, key.rstrip("=")), dry.said + first.said + refused.said)

        removed = host.play("clawmetry.sync.uninstall", {"clawmetry_mode": "sandbox"})
        assert removed.changed > 0
        assert box.added() == inside and not box.daemons()
        assert host.look() == before
        ingest.check()
        assert ingest.duplicate_events == 0


def out_of_the_agents_reach(box: Box) -> None:
    """The agent's user can neither change the daemon, read its keys, end it, nor use its rule."""
    for attempt in ("echo >>clawmetry.pyz", "cat etc/api_key", "ls state", "mv ../clawmetry /tmp/"):
        assert box.sh("cd /opt/clawmetry && %s && echo done" % attempt, user="998", check=False) == "", attempt
    pid = box.daemons()[0].split()[0]
    assert "denied" not in box.sh("kill %s; kill -0 %s || true" % (pid, pid), user="998", check=False)
    assert [line.split()[0] for line in box.daemons()] == [pid]
    said = box.host.docker("exec", "-u", "998", box.id, "python3", "-Ic", AGENTS_ATTEMPT)
    assert "403" in said and "policy_denied" in said and "is not among the binaries" in said


def rule_removed_and_back(box: Box, policy: Path, log: Path, ingest: Ingest) -> None:
    """What is not allowed waits, the doctor says so in the proxy's words, and what it prints lets all of it through."""
    whole = yaml.safe_load(policy.read_text())
    policy.write_text("network_policies: {}\n")
    box.append(3)
    until(lambda: box.clawmetry("status")["target"]["state"] == "retrying", 60, "trouble with the target", 0.5)
    (check,) = [check for check in box.clawmetry("doctor")["checks"] if check["name"] == "ingest"]
    assert check["level"] == "fail" and "policy_denied" in check["seen"] and "no rule for %s:8443" % INGEST in check["seen"]
    assert "lets nothing through" in check["seen"] and "policy-add --from-file" in check["next_step"]
    snippet = check["snippet"]

    # The rule is there, and a path is missing from it.
    policy.write_text(yaml.safe_dump(whole).replace("path: /ingest/events\n", "path: /elsewhere\n"))
    doctor = box.clawmetry("doctor")
    (check,) = [check for check in doctor["checks"] if check["name"] == "ingest"]
    assert check["seen"].startswith("the sandbox's proxy denies POST on /ingest/events: "), check
    assert doctor["exit_code"] == 2
    until(lambda: "policy_denied" in (box.clawmetry("status")["target"]["reason"] or ""), 60, "policy_denied in the status", 0.5)
    assert box.clawmetry("status")["queue"]["pending"] > 0
    assert len(ingest.all_events()) == 3

    # What the doctor printed is the rule, to the letter.
    given = yaml.safe_load(snippet.split("# NemoClaw preset\n")[1])
    assert given["network_policies"] == whole["network_policies"]
    policy.write_text(yaml.safe_dump({"network_policies": given["network_policies"]}))
    box.append(3)
    ingest.wait_events(9, 90)
    assert ingest.all_events() == [canonical(event(number)) for number in range(9)]
    until(lambda: box.clawmetry("status")["target"]["state"] == "ok", 30, "well again", 0.5)
    (check,) = [check for check in box.clawmetry("doctor")["checks"] if check["name"] == "ingest"]
    assert check["level"] == "ok"
    assert [row["path"] for row in asked(log) if row["verdict"].startswith("no rule allows")][:1] == ["/ingest/events"]


def survives_its_client(host: NestedHost, box: Box) -> None:
    """A killed client leaves the process in the sandbox behind: the next start ends it, and a stop leaves none."""
    unit = "clawmetry-sandbox@%s.service" % box.id
    before = box.daemons()
    host.sh("kill -9 $(systemctl show -P MainPID $1); sleep 1; systemctl restart $1", unit)
    until(lambda: len(box.daemons()) == 1 and box.daemons() != before, 30, "one new daemon")
    host.sh("systemctl stop $1", unit)
    assert not box.daemons() and host.sh("systemctl is-failed $1 || true", unit).strip() == "inactive"
    # From here on at its most talkative.
    host.sh(
        "line=$(grep ^ExecStart= /etc/systemd/system/$1); mkdir /run/systemd/system/$1.d;"
        "printf '[Service]\\nExecStart=\\n%s --log-level debug\\n' \"$line\" >/run/systemd/system/$1.d/debug.conf;"
        "systemctl daemon-reload; systemctl start $1",
        unit,
    )
    until(lambda: len(box.daemons()) == 1, 30, "daemon")


def secrets_are_where_they_belong(host: NestedHost, box: Box, needles: tuple[str, str], said: str) -> None:
    unit = "clawmetry-sandbox@%s.service" % box.id
    shown = host.sh("systemctl show $1; systemctl cat $1; journalctl --no-pager --output=verbose", unit)
    shown += host.docker("inspect", box.id) + host.docker("exec", box.id, "/opt/clawmetry/clawmetry", "status")
    shown += host.docker("exec", box.id, "/opt/clawmetry/clawmetry", "doctor", check=False) + box.sh("ps")
    assert "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER" in said and "run --log-level debug" in shown
    for needle in needles:
        assert needle not in said and needle not in shown
    pattern = "-e %s -e %s" % needles
    places = host.sh("grep -rlF --exclude-dir=proc --exclude-dir=sys %s / 2>/dev/null || true" % pattern).splitlines()
    assert {place.partition("/opt/clawmetry/")[2] or place for place in places} == {"etc/api_key", "etc/encryption_key", "/srv/a", "/srv/k"}
    host.sh("rm -r /run/systemd/system/$1.d; systemctl daemon-reload", unit)


def made(cleanup: contextlib.ExitStack, name: str, *options: str, image: str = IMAGE, state: str = "/sandbox", owner: str = "998") -> str:
    """Run a sandbox on this machine's engine with a state directory of the agent; return its container's id."""
    flags = ("--label", LABEL, *LABELS, "--label", "openshell.ai/sandbox-name=" + name, "--label", "openshell.ai/sandbox-id=" + name)
    full = docker("run", "--detach", "--pull=never", "--user=0", "--name", name, *flags, *options, image).decode().strip()
    cleanup.callback(lambda: docker("rm", "-f", "-v", full, check=False))
    docker("exec", "-u", owner, full, "mkdir", "-p", state + "/.openclaw/agents/main/sessions")
    return full


@pytest.mark.root
def test_what_makes_it_impossible_or_unsafe_is_told(cleanup: contextlib.ExitStack, unique: str) -> None:
    settings = config.build({}, {}, None)
    internal = docker("network", "create", "--internal", "--label", LABEL, unique).decode().strip()
    cleanup.callback(lambda: docker("network", "rm", internal, check=False))
    net = "--network=" + internal

    def seen(container: str) -> look.Look:
        (box,) = look.candidates(settings, [container])
        return look.look(box, settings)

    fine = made(cleanup, unique + "-fine", net)
    told = seen(fine)
    assert (told.problems, told.hazards, told.user, told.proxy) == ((), (), 0, "")
    assert told.python is not None and told.python.path.startswith(b"usr/bin/python3.") and not told.installed

    rooted = seen(made(cleanup, unique + "-root", net, state="/root", owner="0"))
    assert rooted.hazards == ("its agent is root",) and not rooted.problems
    bare = seen(made(cleanup, unique + "-bare", image=OPENCLAW_IMAGE))
    assert "no python3" in " ".join(bare.problems)
    alone = seen(made(cleanup, unique + "-none", "--network=none"))
    assert "no network of its own" in " ".join(alone.problems)
    sealed = seen(made(cleanup, unique + "-ro", net, "--read-only", "--tmpfs=/sandbox", owner="0"))
    assert "read-only" in " ".join(sealed.problems)
    dropped = seen(made(cleanup, unique + "-drop", net, "--cap-drop=DAC_OVERRIDE"))
    assert "CAP_DAC_OVERRIDE" in dropped.hazards[0] and dropped.user == 998

    # As OpenShell's base image has it: the only Python is one that the agent may write.
    moved = "mkdir /sandbox/.uv; mv $(busybox readlink -f $1) /sandbox/.uv/; busybox ln -sf /sandbox/.uv/python3.* $1"
    docker("exec", fine, "sh", "-c", moved, "sh", "/usr/bin/python3")
    told = seen(fine)
    assert "Python can be changed by the agent" in told.hazards[0] and "/sandbox" in told.hazards[0] and told.user == 998

    docker("exec", fine, "mkdir", "/opt/clawmetry")
    assert "that is not ours" in seen(fine).problems[0]
    docker("stop", "-t", "1", fine)
    assert "not running" in seen(fine).problems[0]
    with pytest.raises(ConfigError, match="no sandbox nobody runs"):
        look.candidates(settings, ["nobody"])
