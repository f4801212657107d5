# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Adoption: nothing of ours is replaced, nothing runs on beside us, nothing secret is shown."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Optional, Sequence

import pytest

from clawmetry_sync import peek, upstream
from clawmetry_sync.adopt import adopt
from clawmetry_sync.adoptplan import World, choose
from clawmetry_sync.errors import ConfigError, StateError
from clawmetry_sync.queue import Queue
from clawmetry_sync.run import Result
from clawmetry_sync.seal import new_key
from support.upstream import NODE_ID, OLD_API_KEY, PASSPHRASE, make_upstream_home

pytestmark = pytest.mark.network  # the status socket of our own daemon is asked for


class Systemd:
    """Answers as systemctl would; the old unit is ACTIVE until it is disabled."""

    def __init__(self, *, active: bool = False, fails: bool = False) -> None:
        self.active, self.fails, self.calls = active, fails, []

    def __call__(self, argv: Sequence[str], **options: Any) -> Result:
        self.calls.append(list(argv))
        if "disable" in argv:
            self.active = self.active and self.fails
            return Result(tuple(argv), 1 if self.fails else 0, b"", b"Access denied" if self.fails else b"")
        return Result(tuple(argv), 0 if self.active else 3, b"", b"")


class Node:
    def __init__(self, tmp_path: Path, **home: Any) -> None:
        self.etc = tmp_path / "etc"
        self.etc.mkdir(mode=0o755)
        self.config = self.etc / "clawmetry.yml"
        text = "# ours\nstate_dir: %s\napi_key_file: %s\nencryption_key_file: %s\n"
        self.config.write_text(text % (tmp_path / "state", self.etc / "api_key", self.etc / "encryption_key"))
        self.old = make_upstream_home(tmp_path / "home", **home)
        self.state = tmp_path / "state"
        self.proc = tmp_path / "proc"
        self.proc.mkdir()
        (tmp_path / "systemd").mkdir()
        self.systemd = Systemd()
        self.world = World(self.systemd, str(self.proc), str(tmp_path / "systemd"), self._kill, lambda _s: None)
        self.killed: list[tuple[int, int]] = []

    def _kill(self, pid: int, number: int) -> None:
        self.killed.append((pid, number))
        (self.proc / str(pid) / "cmdline").unlink()

    def process(self, pid: int, *argv: str) -> None:
        (self.proc / str(pid)).mkdir()
        (self.proc / str(pid) / "cmdline").write_bytes(b"\0".join(word.encode() for word in argv) + b"\0")

    def adopt(self, home: Optional[str] = None, **options: Any) -> dict[str, Any]:
        return adopt(str(self.config), home or str(self.old), {}, world=self.world, **options)

    def secret(self, name: str, text: str) -> Path:
        path = self.etc / name
        path.touch(mode=0o600)
        path.write_text(text + "\n")
        return path

    def files(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in (*self.etc.rglob("*"), *self.old.rglob("*")) if path.is_file()}


def results(answer: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["result"] for step in answer["steps"]}


def test_dry_run_says_it_all_and_writes_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path, cursors={"a.jsonl": 3})
    before = node.files()
    answer = node.adopt(dry_run=True)
    assert answer["ok"] and set(results(answer).values()) <= {"would be done", "kept"}
    assert node.files() == before and not node.state.exists()
    assert PASSPHRASE not in json.dumps(answer) and OLD_API_KEY not in json.dumps(answer)
    assert PASSPHRASE not in repr(upstream.read_home(str(node.old))) and OLD_API_KEY not in repr(upstream.read_home(str(node.old)))


def test_second_time_changes_nothing_and_imports_no_cursor_again(tmp_path: Path) -> None:
    node = Node(tmp_path, cursors={"a.jsonl": 3})
    assert set(results(node.adopt()).values()) == {"done", "kept"}
    queue = Queue(str(node.state / "queue.db"))
    assert (queue.get_meta("node_id"), queue.get_meta("registered")) == (NODE_ID, "https://ingest.clawmetry.com")
    queue.forget_meta('imported:["host", "main", "a.jsonl"]')  # used up by the first reading
    queue.close()
    before = node.files()
    assert set(results(node.adopt()).values()) == {"kept"}
    assert node.files() == before
    assert peek.meta(str(node.state / "queue.db"), 'imported:["host", "main", "a.jsonl"]') is None


@pytest.mark.parametrize("name, text, word", [("api_key", "cm_another", "another API"), ("encryption_key", "A" * 43 + "=", "another encr")])
def test_key_of_ours_that_differs_is_never_replaced(tmp_path: Path, name: str, text: str, word: str) -> None:
    node = Node(tmp_path)
    path = node.secret(name, text)
    answer = node.adopt()
    assert not answer["ok"] and any(word in problem for problem in answer["problems"])
    assert path.read_text() == text + "\n" and not node.state.exists()
    assert sorted(item.name for item in node.etc.iterdir()) == sorted(["clawmetry.yml", name])
    assert text not in json.dumps(answer)


def test_configuration_of_ours_is_added_to_and_never_contradicted(tmp_path: Path) -> None:
    node = Node(tmp_path, endpoint="https://ingest.example.com:8443/")
    text = node.config.read_text()
    node.config.chmod(0o640)
    assert node.adopt()["ok"]
    assert node.config.read_text() == text + 'ingest_url: "https://ingest.example.com:8443"\n'
    assert node.config.stat().st_mode & 0o777 == 0o640
    other = tmp_path / "other"
    other.mkdir()
    node = Node(other, endpoint="https://ingest.example.com")
    node.config.write_text(node.config.read_text() + "ingest_url: https://elsewhere.example.com\nnode_id: me\n")
    answer = node.adopt()
    assert len(answer["problems"]) == 2 and "elsewhere" in answer["problems"][1] and "node id" in answer["problems"][0]


@pytest.mark.parametrize("how", [{"nocloud": True}, {"local_only": True}])
def test_opt_out_means_the_archive_only(tmp_path: Path, how: dict[str, Any]) -> None:
    node = Node(tmp_path, **how)
    answer = node.adopt()
    assert answer["ok"] and answer["ingest_url"] == "file://%s/archive" % node.state
    assert 'ingest_url: "file://%s/archive"' % node.state in node.config.read_text()


def test_disconnected_host_stays_opted_out(tmp_path: Path) -> None:
    node = Node(tmp_path, nocloud=True)
    for name in ("config.json", "sync-state.json"):
        (node.old / name).unlink()
    assert node.adopt()["ingest_url"].startswith("file://")
    (node.old / "nocloud").unlink()
    with pytest.raises(ConfigError, match="nothing to take over"):
        node.adopt()


def test_running_old_daemon_is_stopped_only_when_told(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.process(77, "/usr/bin/python3", "-m", "clawmetry.sync")
    (node.old / "sync.pid").write_text("77")
    answer = node.adopt()
    assert not answer["ok"] and "process 77" in answer["problems"][0] and not node.killed
    assert not any("disable" in call for call in node.systemd.calls)
    node.systemd.active = True
    answer = node.adopt(stop_old=True)
    assert answer["ok"] and node.killed == [(77, 15)]
    if os.geteuid() == 0:
        assert ["systemctl", "disable", "--now", "clawmetry-sync.service"] in node.systemd.calls


def test_pid_of_another_program_is_not_the_old_daemon(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.process(77, "/usr/bin/vim", "clawmetry.sync")
    (node.old / "sync.pid").write_text("77")
    assert node.adopt(stop_old=True)["ok"] and not node.killed


@pytest.mark.root
def test_unit_that_does_not_stop_stops_us(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.systemd.active = node.systemd.fails = True
    before = node.files()
    with pytest.raises(StateError, match="Access denied"):
        node.adopt(stop_old=True)
    assert node.files() == before and not node.state.exists()


def test_key_in_the_keychain_is_asked_for(tmp_path: Path) -> None:
    node = Node(tmp_path, encryption_key=None)
    assert "workspace-key:" + NODE_ID in node.adopt()["problems"][0]
    node.secret("encryption_key", new_key())
    assert node.adopt()["ok"]


@pytest.mark.parametrize(
    "name, text",
    [("config.json", "{"), ("config.json", "[]"), ("config.json", '{"node_id": 7}'), ("config.json", '{"api_key": "a\\nb"}'),
     ("sync-state.json", '{"last_event'), ("config.json", "[" * 100000)],
)  # fmt: skip
def test_damaged_home_is_refused(tmp_path: Path, name: str, text: str) -> None:
    node = Node(tmp_path)
    (node.old / name).write_text(text)
    with pytest.raises(ConfigError):
        node.adopt()


@pytest.mark.parametrize(
    "text",
    ['{"api_key": "cm_canary", "encryption_key": "canary', '{"api_key": "cm canary", "node_id": "x"}', '{"api_key": "cm_canary\\u0007"}',
     '{"api_key": "cm_canary\u00e4", "encryption_key": "canary\u0000"}', '{"endpoint": "http://ann:canary@127.0.0.1", "node_id": "x"}'],
)  # fmt: skip
def test_no_refusal_repeats_a_secret(tmp_path: Path, text: str) -> None:
    node = Node(tmp_path)
    (node.old / "config.json").write_text(text)
    try:
        said = json.dumps(node.adopt())
        assert '"ok": false' in said
    except ConfigError as exc:
        said = "%s %r %s" % (exc, exc, exc.next_step)
    assert "canary" not in said


def test_links_and_fifos_in_the_home_are_refused(tmp_path: Path) -> None:
    node = Node(tmp_path)
    secret = tmp_path / "shadow"
    secret.write_text('{"api_key": "cm_x", "node_id": "x"}')
    (node.old / "config.json").unlink()
    (node.old / "config.json").symlink_to(secret)
    with pytest.raises(ConfigError, match="cannot read"):
        node.adopt()
    (node.old / "config.json").unlink()
    os.mkfifo(node.old / "config.json")
    with pytest.raises(ConfigError, match="regular"):
        node.adopt()


def test_plain_http_to_another_host_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        Node(tmp_path, endpoint="http://ingest.example.com").adopt()


def test_home_may_be_named_either_way(tmp_path: Path) -> None:
    node = Node(tmp_path)
    assert choose(str(tmp_path / "home"), {}) == choose(str(node.old), {}) == str(node.old)


@pytest.mark.root
@pytest.mark.spawns
def test_state_directory_of_the_service_is_filled_as_the_service() -> None:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are closed to others
        Path(directory).chmod(0o755)
        node = Node(Path(directory), cursors={"a.jsonl": 3})
        node.state.mkdir(mode=0o700)
        os.chown(node.state, 65533, 65533)
        assert node.adopt()["ok"]
        assert {path.stat().st_uid for path in node.state.iterdir()} == {65533}


def test_cursors_of_sandboxes_and_mirrors_keep_their_place(tmp_path: Path) -> None:
    path = make_upstream_home(
        tmp_path,
        cursors={"host.jsonl": 4, "copied.jsonl": 5, "bad.jsonl": -1, "worse.jsonl": True},
        sandbox_cursors={"box/main/a.jsonl": 6, "box/advisor/a.jsonl": 7, "box/b.jsonl": 8, "x/y/z/c.jsonl": 9},
    )
    (path / "docker-mirror/3f/sessions").mkdir(parents=True)
    (path / "docker-mirror/3f/sessions/copied.jsonl").touch()
    assert upstream.read_cursors(str(path)) == upstream.Cursors(
        {
            ("host", "main", "host.jsonl"): 4,
            ("mirror", "", "copied.jsonl"): 5,
            ("sandbox:box", "main", "a.jsonl"): 6,
            ("sandbox:box", "advisor", "a.jsonl"): 7,
            ("sandbox:box", "main", "b.jsonl"): 8,
        },
        "20261120100000",
    )
