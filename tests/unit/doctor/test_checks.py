# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The doctor's checks of a host: levels, words and cures, over made-up hosts."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest

from clawmetry_sync import doctor
from clawmetry_sync.dockerapi import EngineError
from clawmetry_sync.doctor import boxes, keys, place, service
from clawmetry_sync.errors import StateError
from clawmetry_sync.model import Discovery, Runtime, Survey
from clawmetry_sync.seal import new_key
from support.ground import ALL_CAPABILITIES, NOW, UNIT_FINE, box, ground, host, status

Checks = list[doctor.Check]


def found(checks: Checks, name: str) -> doctor.Check:
    (one,) = [check for check in checks if check.name == name]
    return one


def without(*numbers: int) -> int:
    bits = ALL_CAPABILITIES
    for number in numbers:
        bits &= ~(1 << number)
    return bits


# -- where we are ------------------------------------------------------------------


def test_host_says_why_no_rule_is_needed(tmp_path: Path) -> None:
    (check,) = place.mode(ground(tmp_path))
    assert check.level == "ok" and "no sandbox needs an egress rule" in check.why and not check.snippet


def test_sandbox_gets_the_exact_snippet(tmp_path: Path) -> None:
    inside = ground(tmp_path, config={"ingest_url": "https://ingest.example.com:8443"}, where=host(in_sandbox=True, in_container=True))
    check = found(place.mode(inside), "mode")
    assert check.level == "warn" and "openshell-sandbox" in check.seen
    for line in ("network:", "  egress:", "    - host: ingest.example.com", "      port: 8443", "      protocol: https"):
        assert line in check.snippet.splitlines()
    assert "path: /ingest/events" in check.snippet and "policy-add --from-file" in check.next_step


def test_who_can_read_the_keys_depends_on_whose_the_daemon_is(tmp_path: Path) -> None:
    for euid, who in ((0, "whoever is root in it"), (998, "its agent, where it is the same user")):
        (check,) = place.mode(ground(tmp_path, where=host(in_sandbox=True), euid=euid))
        assert check.why.startswith(who)


def test_sandbox_with_the_archive_needs_no_rule(tmp_path: Path) -> None:
    (check,) = place.mode(ground(tmp_path, where=host(in_sandbox=True)))
    assert check.level == "warn" and not check.snippet


def test_sandbox_environment_is_compared_with_the_configuration(tmp_path: Path) -> None:
    env = {"HTTPS_PROXY": "http://10.200.0.1:3128", "SSL_CERT_FILE": "/etc/openshell-tls/ca-bundle.pem"}
    checks = place.mode(ground(tmp_path, config={"ingest_url": "https://i.example"}, env=env, where=host(in_sandbox=True)))
    assert found(checks, "proxy").next_step.endswith("proxy: http://10.200.0.1:3128")
    assert found(checks, "ca_file").next_step.endswith("/etc/openshell-tls/ca-bundle.pem")
    env["HTTPS_PROXY"] = "http://me:canary@10.200.0.1:3128"
    checks = place.mode(ground(tmp_path, config={"ingest_url": "https://i.example"}, env=env, where=host(in_sandbox=True)))
    assert "canary" not in json.dumps(doctor.as_json(checks))


@pytest.mark.parametrize("in_sandbox, in_container", [(None, None), (False, True)])
def test_place_that_is_not_clear_is_a_warning(tmp_path: Path, in_sandbox: Optional[bool], in_container: Optional[bool]) -> None:
    (check,) = place.mode(ground(tmp_path, where=host(in_sandbox=in_sandbox, in_container=in_container)))
    assert check.level == "warn" and check.next_step


def test_container_that_is_a_host_itself_is_fine(tmp_path: Path) -> None:
    (check,) = place.mode(ground(tmp_path, boxes=[box()], where=host(in_container=True)))
    assert check.level == "ok" and "sandboxes of its own" in check.seen


# -- what we may -------------------------------------------------------------------


def test_capabilities_are_those_of_the_service(tmp_path: Path) -> None:
    sick = ground(tmp_path, running=status(), boxes=[box()], capabilities=without(19))
    (check,) = place.capabilities(sick)
    assert (check.level, check.seen) == ("fail", "the service (process 4711) lacks CAP_SYS_PTRACE")
    (check,) = place.capabilities(ground(tmp_path, boxes=[box()], capabilities=without()))
    assert check.level == "ok" and check.seen.startswith("this process has")


def test_capabilities_nobody_needs_are_not_missed(tmp_path: Path) -> None:
    (check,) = place.capabilities(ground(tmp_path, capabilities=0))
    assert check.level == "ok" and "no container needs them" in check.seen


def test_sqlite_child_is_looked_at_only_where_a_store_was_seen(tmp_path: Path) -> None:
    surveys = {box().uid: Survey(True, "proc", agents=("main",), store="both")}
    assert [check.name for check in place.capabilities(ground(tmp_path, boxes=[box()]))] == ["capabilities"]
    check = found(place.capabilities(ground(tmp_path, boxes=[box()], surveys=surveys, capabilities=without(18, 6))), "sqlite")
    assert check.level == "fail" and "lacks CAP_SYS_CHROOT, CAP_SETGID" in check.seen
    assert found(place.capabilities(ground(tmp_path, boxes=[box()], surveys=surveys)), "sqlite").level == "ok"


@pytest.mark.parametrize("now, level", [(NOW, "ok"), (0.0, "fail"), (-1e15, "fail"), (1e12, "fail")])
def test_clock_is_plausible(tmp_path: Path, now: float, level: str) -> None:
    one = ground(tmp_path)
    one.clock = lambda: now
    (check,) = place.clock(one)
    assert check.level == level


# -- what there is --------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, level, cure",
    [("absent", "ok", ""), ("denied", "fail", "group"), ("hangs", "fail", "journalctl"), ("refused", "fail", "status docker")],
)
def test_engine_that_does_not_answer_has_its_cure(tmp_path: Path, kind: str, level: str, cure: str) -> None:
    class Sick:
        def __init__(self, _host: str) -> None: ...

        def version(self) -> Any:
            raise EngineError(kind, "engine is not well")

    (check,) = boxes.engine(ground(tmp_path, config={"discover": ["docker"]}, engine=Sick))
    assert check.level == level and cure in check.next_step
    assert boxes.engine(ground(tmp_path, engine=Sick)) == []


def test_every_sandbox_has_its_route(tmp_path: Path) -> None:
    surveys = {
        "docker:good": Survey(True, "proc", agents=("main",), store="jsonl", session_count=3),
        "docker:odd": Survey(True, "volume", "an OpenClaw database is there", "both", ("main",)),
        "docker:bad": Survey(False, None, "cannot hold /proc/7/root: Permission denied"),
        "docker:empty": Survey(False, "proc", "no OpenClaw state directory was found in it"),
        "docker:torn": Survey(True, "proc", agents=("main",), store="jsonl"),
    }
    many = [box(name) for name in ("good", "odd", "bad", "empty", "torn")]
    running = status(unreadable={"docker:torn": "permission\x1b[1m denied"})
    checks = boxes.sandboxes(ground(tmp_path, boxes=many, surveys=surveys, running=running))
    assert [check.level for check in checks] == ["ok", "warn", "fail", "warn", "fail"]
    assert checks[0].seen == "3 sessions (jsonl) through proc"
    assert "the service says" in checks[4].seen and "\x1b" not in checks[4].seen
    (check,) = boxes.sandboxes(ground(tmp_path))
    assert check.level == "warn" and check.seen == "none found"


def test_runtimes_come_with_their_evidence(tmp_path: Path) -> None:
    one = ground(tmp_path)
    one._cache["found"] = Discovery(
        runtimes=(Runtime("openclaw", True, "2026.9.1", evidence=("/root/.openclaw",)), Runtime("docker", True)), warnings=("odd\nthing",)
    )
    checks = boxes.runtimes(one)
    assert [check.name for check in checks] == ["runtime openclaw", "discovery"]
    assert checks[0].seen == "present 2026.9.1: /root/.openclaw" and "\n" not in checks[1].seen
    one._cache["found"] = Discovery(runtimes=(Runtime("openclaw", None),))
    assert boxes.runtimes(one)[0].level == "warn"


# -- keys, configuration, disk ------------------------------------------------------------


def test_keys_and_their_modes(tmp_path: Path) -> None:
    path = tmp_path / "encryption_key"
    path.touch(mode=0o600)
    path.write_text(new_key())
    (check,) = keys.keys(ground(tmp_path))
    assert check.level == "ok"
    path.chmod(0o644)
    (check,) = keys.keys(ground(tmp_path, euid=0))
    assert check.level == "fail" and "open to others" in check.seen and "chmod" in check.next_step and "chmod" not in check.seen
    path.chmod(0o600)
    path.write_text("a passphrase of old")
    (check,) = keys.keys(ground(tmp_path))
    assert check.level == "warn" and "passphrase of old" not in json.dumps(doctor.as_json([check]))
    checks = keys.keys(ground(tmp_path, config={"ingest_url": "https://i.example"}))
    assert found(checks, "api key").level == "fail"


def test_configuration_others_could_change(tmp_path: Path) -> None:
    path = tmp_path / "clawmetry.yml"
    path.write_text("{}")
    path.chmod(0o666)
    one = ground(tmp_path, config={"proxy": "http://me:canary@p.example:1"})
    one.settings = replace(one.settings, path=str(path))
    assert found(keys.config(one), "config file").level == "warn"
    path.chmod(0o644)
    check = found(keys.config(one), "config file")
    assert "password" in check.seen and "canary" not in check.seen
    path.chmod(0o640)
    assert [check.name for check in keys.config(one)] == ["config"]


def test_state_directory_and_disk(tmp_path: Path) -> None:
    one = ground(tmp_path)
    assert [check.level for check in keys.state(one)][0] == "ok"
    (tmp_path / "state").mkdir(mode=0o755)
    assert keys.state(one)[0].level == "warn"
    free = os.statvfs(tmp_path)
    one.settings = replace(one.settings, queue_max_bytes=free.f_bavail * free.f_frsize * 2)
    assert found(keys.state(one), "disk").level == "warn"


# -- the service --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, level, cure",
    [
        ({}, "ok", ""),
        ({"ActiveState": "failed", "Result": "watchdog"}, "fail", "journalctl"),
        ({"ActiveState": "inactive"}, "warn", "enable --now"),
        ({"ActiveState": "activating"}, "warn", "journalctl"),
        ({"NRestarts": "7"}, "warn", "journalctl"),
        ({"UnitFileState": "disabled"}, "warn", "systemctl enable"),
        ({"LoadState": "not-found", "ActiveState": "inactive"}, "warn", "site"),
    ],
)
def test_unit_state(tmp_path: Path, changes: dict[str, str], level: str, cure: str) -> None:
    (check,) = service.unit(ground(tmp_path, unit={**UNIT_FINE, **changes}))
    assert check.level == level and cure in check.next_step


def test_host_without_systemd_has_no_unit(tmp_path: Path) -> None:
    one = ground(tmp_path)
    os.rmdir(tmp_path / "host/run/systemd/system")
    assert service.unit(one) == []
    assert service.daemon(one)[0].next_step == "clawmetry run"
    inside = ground(tmp_path, where=host(in_sandbox=True, in_container=True))
    assert service.daemon(inside)[0].next_step == "on the host: systemctl status 'clawmetry-sandbox@*'"


def test_daemon_its_target_and_its_queue(tmp_path: Path) -> None:
    sick = status(
        state="degraded", trouble="disk full", quarantined=2, target={"state": "paused", "reason": "HTTP 401"},
        queue={"pending": 9, "pending_bytes": 250 << 20},
    )  # fmt: skip
    checks = service.daemon(ground(tmp_path, running=sick))
    assert [(check.name, check.level) for check in checks] == [
        ("daemon", "warn"), ("target", "fail"), ("queue", "warn"), ("quarantined", "warn"),
    ]  # fmt: skip
    assert [check.level for check in service.daemon(ground(tmp_path, running=status()))] == ["ok", "ok"]


def test_daemon_that_is_not_ours_to_ask(tmp_path: Path) -> None:
    def refuse(*_arguments: Any) -> Any:
        raise StateError("the status socket is not ours", next_step="run this as root")

    one = ground(tmp_path)
    one.control = refuse
    (check,) = service.daemon(one)
    assert (check.level, check.next_step) == ("warn", "run this as root")


def test_old_client_on_the_same_data(tmp_path: Path) -> None:
    one = ground(tmp_path)
    (check,) = service.others(one)
    assert (check.level, check.seen) == ("ok", "none")
    home = tmp_path / "host/root/.clawmetry"
    home.mkdir(parents=True)
    (home / "config.json").write_text("{}")
    (check,) = service.others(one)
    assert check.level == "ok" and ".clawmetry" in check.seen
    (tmp_path / "host/proc/99").mkdir()
    (tmp_path / "host/proc/99/cmdline").write_bytes(b"/usr/bin/python3\0-m\0clawmetry.sync\0")
    (check,) = service.others(ground(tmp_path, old_active=True))
    assert check.level == "warn" and "process 99" in check.seen and "clawmetry-sync.service" in check.seen
    assert "adopt" in check.next_step


def test_version_skew(tmp_path: Path) -> None:
    one = ground(tmp_path, running=status(version="0.0.9"))
    (tmp_path / "host/opt/clawmetry").mkdir(parents=True)
    (tmp_path / "host/opt/clawmetry/current").symlink_to("releases/0.1.0")
    (check,) = service.version(one)
    assert check.level == "warn" and check.next_step == "systemctl restart clawmetry" and "running daemon 0.0.9" in check.seen
    assert service.version(ground(tmp_path, running=status()))[0].level == "ok"


# -- the whole ----------------------------------------------------------------------------


def test_each_finding_says_why_and_each_trouble_its_cure(tmp_path: Path) -> None:
    for number, one in enumerate(
        (
            ground(tmp_path / "a", boxes=[box()], running=status()),
            ground(tmp_path / "b", where=host(in_sandbox=True), capabilities=0, unit={"ActiveState": "failed"}, old_active=True),
        )
    ):
        checks = doctor.examine(one)
        for check in checks:
            assert check.seen and check.why, check
            assert check.level == "ok" or check.next_step, check
        assert doctor.exit_code(checks) == 2, number  # there is no key
        document = json.loads(json.dumps(doctor.as_json(checks)))
        assert (document["schema_version"], document["exit_code"]) == (1, 2)
        assert {"name", "level", "seen", "why", "next_step"} <= set(document["checks"][0])


def test_check_that_breaks_breaks_no_other(tmp_path: Path) -> None:
    one = ground(tmp_path)

    def broken(*_arguments: Any, **_options: Any) -> Any:
        raise OSError("no such luck")

    one.runner = broken
    checks = doctor.examine(one)
    assert found(checks, "unit").level == "fail" and found(checks, "version").level == "ok"


def test_report_leads_with_the_verdict_and_keeps_commands_whole() -> None:
    checks = [
        doctor.Check("a", "ok", "fine", "because"),
        doctor.Check("b", "fail", "x " * 60, "because", "run /a/very/long/path/" + "y" * 90, "one:\n  two: 2"),
    ]
    lines = list(doctor.report(checks))
    assert lines[0] == "1 failed, 0 to look at, 1 fine" and lines[1].startswith("fail  b:")
    assert lines[-1] == "ok    a: fine" and "          two: 2" in lines
    assert any(line.strip().endswith("y" * 90) for line in lines)
    assert all(len(line) <= 80 for line in lines if "yyy" not in line)
    assert [doctor.exit_code(checks), doctor.exit_code(checks[:1])] == [2, 0]


def test_configuration_that_is_wrong_is_the_only_finding(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text('{"nod_id": "x"}')
    (check,) = doctor.run(str(tmp_path / "c.yml"), {})
    assert check.level == "fail" and "node_id" in check.next_step
