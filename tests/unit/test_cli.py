# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line from outside: options, exit codes, and the two streams when something is wrong with them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from clawmetry_sync import cli
from support.daemon import Daemon

pytestmark = pytest.mark.spawns
FULL = "/dev/full"  # every write to it fails as on a full disk


@pytest.fixture
def node(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path / "node", ingest_url="file://%s" % (tmp_path / "archive"), discover=["openclaw"])


def run(node: Daemon, *arguments: str, shell: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run the CLI through a shell that does to its streams what SHELL says; SHELL names its words "$@"."""
    argv = ["bash", "-c", shell, "bash", *node._argv(*arguments)]
    return subprocess.run(argv, capture_output=True, timeout=60, check=False, env=node._environment(None), stdin=subprocess.DEVNULL)


@pytest.mark.parametrize(
    "argv",
    [
        ["--config", "/c.yml", "--log-level", "debug", "status"],
        ["status", "--config", "/c.yml", "--log-level", "debug"],
        ["--log-level", "debug", "archive", "list", "--config", "/c.yml"],
        ["archive", "--config", "/c.yml", "show", "--log-level", "debug"],
        ["--config", "/not.yml", "adopt", "--config", "/c.yml", "--log-level", "debug"],
    ],
)
def test_global_options_before_and_after_the_verb(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for verb in ("status", "archive", "adopt"):
        monkeypatch.setitem(cli._VERBS, verb, lambda args: seen.append((args.config, args.log_level)) or 0)
    assert cli.main(argv) == 0 and seen == [("/c.yml", "debug")]


def test_what_is_not_given_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setitem(cli._VERBS, "status", lambda args: seen.append((args.config, args.log_level)) or 0)
    assert cli.main(["status"]) == 0 and seen == [(None, "info")]


@pytest.mark.parametrize("argv", [[], ["frobnicate"], ["archive"], ["--log-level", "loud", "status"], ["status", "extra"]])
def test_misuse_ends_with_2_and_leaves_stdout_alone(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    said = capsys.readouterr()
    assert caught.value.code == 2 and not said.out and "usage:" in said.err


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "1e300", "soon"])
def test_a_timeout_that_is_no_time_is_misuse(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["sync", "--timeout=" + value])
    assert caught.value.code == 2 and "--timeout" in capsys.readouterr().err


@pytest.mark.parametrize(
    "shell, rc, told",
    [
        ('"$@" | true; exit ${PIPESTATUS[0]}', 0, b""),
        ('"$@" | head -c 1; exit ${PIPESTATUS[0]}', 0, b""),
        ('"$@" >&-', 0, b""),
        ('"$@" 2>&-', 0, b""),
        ('"$@" <&-', 0, b""),
        ('"$@" >%s' % FULL, 2, b"clawmetry: cannot write the answer (stdout): No space left on device\n"),
    ],
    ids=["nobody reads", "head", "no stdout", "no stderr", "no stdin", "full disk"],
)
def test_streams_that_are_gone_or_full(node: Daemon, shell: str, rc: int, told: bytes) -> None:
    done = run(node, "snapshot", "--json", shell=shell)
    assert (done.returncode, done.stderr) == (rc, told)


def test_keygen_into_a_full_disk_is_an_error(node: Daemon) -> None:
    assert run(node, "keygen", shell='"$@" >' + FULL).returncode == 2


def test_status_of_a_host_without_a_daemon_has_the_shape_of_any_other(node: Daemon, tmp_path: Path) -> None:
    sessions = tmp_path / ".openclaw/agents/main/sessions"
    sessions.mkdir(parents=True)
    (sessions / "s.jsonl").write_bytes(b'{"type":"session","id":"s"}\n')
    virgin = node.cli("status", "--json")
    assert virgin.returncode == 2
    node.config["homes"] = [str(tmp_path)]
    node.write_config()
    assert node.json("sync")["ok"]
    node.start()
    running = node.status()
    assert node.terminate() == 0
    down = node.status()
    for answer in (json.loads(virgin.stdout), down):
        assert set(answer) == set(running) | {"reason"}
        assert all(set(answer[part]) == set(running[part]) for part in ("target", "queue"))
    (source,) = down["sources"]
    assert set(source) == set(running["sources"][0]) and source["offset"] == source["size"] == 28 and source["last_ack"]


def test_snapshot_and_status_leave_no_trace(node: Daemon, tmp_path: Path) -> None:
    def seen() -> list[tuple[str, int]]:
        return sorted((os.path.join(place, name), os.lstat(os.path.join(place, name)).st_mtime_ns)
                      for place, folders, files in os.walk(tmp_path) for name in (*folders, *files))  # fmt: skip

    assert node.cli("snapshot", "--json").returncode == 0 and not node.state_dir.exists()
    assert node.json("sync")["ok"]
    before = seen()
    for verb in (("snapshot",), ("status",), ("doctor",), ("check-config",), ("archive", "list"), ("dead-letters",)):
        node.cli(*verb)
    assert seen() == before


def test_check_config_finds_directories_that_cannot_be(node: Daemon, tmp_path: Path) -> None:
    assert node.cli("check-config").returncode == 0
    (tmp_path / "file").touch()
    for key, value in (("state_dir", str(tmp_path / "file")), ("ingest_url", "file://%s/file/archive" % tmp_path)):
        good = node.config[key]
        node.config[key] = value
        node.write_config()
        done = node.cli("check-config")
        assert done.returncode == 2 and b"is no directory" in done.stderr and not done.stdout
        node.config[key] = good


def test_doctor_finds_a_damaged_archive_and_a_damaged_queue(node: Daemon, tmp_path: Path) -> None:
    assert node.json("sync")["ok"]
    for path, name in ((tmp_path / "archive/archive.db", "ingest"), (node.state_dir / "queue.db", "queue")):
        good = path.read_bytes()
        path.write_bytes(b"x" * 20_000)
        done = node.cli("doctor", "--json")
        (check,) = [check for check in json.loads(done.stdout)["checks"] if check["name"] == name]
        assert done.returncode == 2 and check["level"] == "fail" and check["next_step"]
        path.write_bytes(good)
