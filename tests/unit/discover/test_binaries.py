# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where binaries are found, and which are trusted with a question."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from clawmetry_sync.discover.accounts import Account
from clawmetry_sync.discover.binaries import REASK_S, RECHECK_S, Lookups, parse_version
from clawmetry_sync.errors import CommandError
from clawmetry_sync.run import Result


@pytest.mark.parametrize(
    ("output", "version"),
    [
        (b"nemoclaw v0.1.0\n", "0.1.0"),
        (b"openshell 0.0.111\n", "0.0.111"),
        (b"2026.3.11\n", "2026.3.11"),
        (b"nemoclaw v0.0.76-3-g1a2b3c4\n", "0.0.76-3-g1a2b3c4"),
        (b"", None),
        (b"usage: x\n", None),
        (b"\xff\xfe 1.2", "1.2"),
    ],
)
def test_version_texts(output: bytes, version: object) -> None:
    assert parse_version(output) == version


class Runner:
    def __init__(self, output: bytes = b"openshell 0.0.72\n", rc: int = 0) -> None:
        self.output, self.rc, self.asked = output, rc, 0

    def __call__(self, argv: list[str], **_options: object) -> Result:
        self.asked += 1
        assert argv[1:] == ["--version"]
        return Result(tuple(argv), self.rc, self.output, b"")


def put_binary(host: Path, path: str, mode: int = 0o755) -> Path:
    target = host / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("#!/bin/sh\n")
    target.chmod(mode)
    return target


def lookups(host: Path, runner: Any, clock: Any = lambda: 0.0) -> Lookups:
    return Lookups(root=str(host), runner=runner, euid=os.geteuid(), clock=clock)


def test_version_is_asked_once_an_hour_or_when_the_file_changes(tmp_path: Path) -> None:
    now, runner = [0.0], Runner()
    put_binary(tmp_path, "usr/bin/openshell")
    looks = lookups(tmp_path, runner, lambda: now[0])
    for _pass in range(5):
        found = looks.binary("openshell")
        assert found is not None and found.version == "0.0.72" and found.path == "/usr/bin/openshell"
    now[0] = RECHECK_S
    looks.binary("openshell")
    assert runner.asked == 1
    put_binary(tmp_path, "usr/bin/openshell").write_text("#!/bin/sh\n# upgraded\n")
    now[0] += RECHECK_S
    looks.binary("openshell")
    assert runner.asked == 2
    now[0] += REASK_S
    looks.binary("openshell")
    assert runner.asked == 3


def test_binary_in_a_node_version_s_directory_is_found(tmp_path: Path) -> None:
    alice = Account("alice", 1000, "/home/alice", str(tmp_path / "home/alice"))
    put_binary(tmp_path, "home/alice/.nvm/versions/node/v22.1.0/bin/nemoclaw")
    found = lookups(tmp_path, Runner()).binary("nemoclaw", [alice])
    assert found is not None and found.user == "alice" and "/v22.1.0/" in found.path


@pytest.mark.root
def test_another_user_s_binary_is_never_run(tmp_path: Path) -> None:
    runner = Runner()
    os.chown(put_binary(tmp_path, "usr/bin/openshell"), 1000, 1000)
    found = lookups(tmp_path, runner).binary("openshell")
    assert found is not None and found.version is None and "not owned" in " ".join(found.evidence) and runner.asked == 0


@pytest.mark.root
def test_link_in_another_user_s_directory_does_not_choose_what_we_run(tmp_path: Path) -> None:
    runner = Runner()
    alice = Account("alice", 1000, "/home/alice", str(tmp_path / "home/alice"))
    put_binary(tmp_path, "usr/bin/other")
    (tmp_path / "home/alice/.local/bin").mkdir(parents=True)
    for part in (".local/bin", ".local", ""):
        os.chown(tmp_path / "home/alice" / part, 1000, 1000)
    (tmp_path / "home/alice/.local/bin/openshell").symlink_to(tmp_path / "usr/bin/other")
    found = lookups(tmp_path, runner).binary("openshell", [alice])
    assert found is not None and found.version is None and runner.asked == 0


@pytest.mark.root
def test_root_asks_a_user_s_own_binary_as_that_user(tmp_path: Path) -> None:
    asked: list[dict[str, object]] = []

    def runner(argv: list[str], **options: object) -> Result:
        asked.append(options)
        return Result(tuple(argv), 0, b"nemoclaw v0.1.0\n", b"")

    alice = Account("alice", 1000, "/home/alice", str(tmp_path / "home/alice"), 1001)
    program = put_binary(tmp_path, "home/alice/.local/bin/nemoclaw")
    for part in (".local/bin/nemoclaw", ".local/bin", ".local", ""):
        os.chown(tmp_path / "home/alice" / part, 1000, 1000)
    found = lookups(tmp_path, runner).binary("nemoclaw", [alice])
    assert found is not None and found.version == "0.1.0"
    (options,) = asked
    environment = options["env"]
    assert (options["user"], options["group"]) == (1000, 1001) and isinstance(environment, dict)
    assert environment["HOME"] == alice.path and environment["PATH"].startswith(str(program.parent))
    os.chown(program, 1002, 1002)
    found = lookups(tmp_path, runner).binary("nemoclaw", [alice])
    assert found is not None and found.version is None and len(asked) == 1


def test_world_writable_binary_is_never_run(tmp_path: Path) -> None:
    runner = Runner()
    put_binary(tmp_path, "usr/bin/openshell", 0o777)
    found = lookups(tmp_path, runner).binary("openshell")
    assert found is not None and found.version is None and runner.asked == 0


def test_failed_version_is_unknown_with_the_reason(tmp_path: Path) -> None:
    put_binary(tmp_path, "usr/bin/openshell")

    def hangs(*_arguments: object, **_options: object) -> Result:
        raise CommandError("command stopped", cause="no answer after 5 s")

    found = lookups(tmp_path, hangs).binary("openshell")
    assert found is not None and found.version is None and "no answer" in " ".join(found.evidence)
    found = lookups(tmp_path, Runner(rc=3)).binary("openshell")
    assert found is not None and found.version is None and "rc 3" in " ".join(found.evidence)


def test_directory_or_plain_file_is_no_binary(tmp_path: Path) -> None:
    (tmp_path / "usr/bin/openshell").mkdir(parents=True)
    put_binary(tmp_path, "usr/local/bin/openshell", 0o644)
    assert lookups(tmp_path, Runner()).binary("openshell") is None
