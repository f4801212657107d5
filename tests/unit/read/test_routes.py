# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ways into a sandbox: proc with its identity checked again (S18), volumes, homes; what is listed, what is not."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Optional

import pytest

from clawmetry_sync.errors import Unreadable
from clawmetry_sync.model import ContainerPlace, HomePlace, Mount, Sandbox, Survey
from clawmetry_sync.read import routes

ROUTES = ("proc", "volume", "archive")
ID = "0" * 64


def place(pid: int, **changes: object) -> ContainerPlace:
    return replace(ContainerPlace("unix:///x", ID, pid=pid, started_at="2026-11-21T20:00:00Z", running=True), **changes)


def box(where: ContainerPlace) -> Sandbox:
    return Sandbox("docker:" + ID, "mine", "nemoclaw", container=where, confirmed=True)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], stdin=subprocess.DEVNULL) as child:
        yield child
        child.kill()


def fill(state: Path) -> None:
    sessions = state / "agents" / "main" / "sessions"
    sessions.mkdir(parents=True)
    (sessions / "a.jsonl").write_bytes(b'{"a":1}\n')
    (sessions / "a.jsonl.reset.2026-11-21T19-43-04.582Z").write_bytes(b'{"a":0}\n')
    (sessions / "nemoclaw-onboard-warmup-1.jsonl").write_bytes(b"{}\n")
    (sessions / "sessions.json").write_bytes(b"{}")
    (state / "workspace" / "memory").mkdir(parents=True)
    (state / "workspace" / "MEMORY.md").write_bytes(b"# Memory\n")
    (state / "workspace" / "secrets.env").write_bytes(b"no\n")


@pytest.mark.root
@pytest.mark.spawns
class TestThroughProc:
    def test_the_same_container_is_held(self, process: subprocess.Popen[bytes]) -> None:
        where = place(process.pid)
        held = routes.open_sandbox(box(where), routes=ROUTES, reinspect=lambda asked: asked)
        try:
            assert (held.route, held.alive()) == ("proc", True)
            process.kill()
            process.wait()
            assert not held.alive()
        finally:
            held.close()

    @pytest.mark.parametrize("change", ["gone", "other pid", "restarted", "died"])
    def test_s18_another_one_behind_the_same_pid_is_let_go(self, process: subprocess.Popen[bytes], change: str) -> None:
        """The engine is asked after the root was taken; any difference means it may be another's root."""

        def again(asked: ContainerPlace) -> Optional[ContainerPlace]:
            if change == "gone":
                return None
            if change == "other pid":
                return replace(asked, pid=asked.pid + 1)
            if change == "restarted":
                return replace(asked, started_at="2026-11-21T20:00:01Z")
            process.kill()
            process.wait()
            return asked

        gc.collect()
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(Unreadable, match="changed while it was opened"):
            routes.open_sandbox(box(place(process.pid)), routes=ROUTES, reinspect=again)
        assert set(os.listdir("/proc/self/fd")) <= before

    def test_an_engine_that_cannot_be_asked_is_no_yes(self, process: subprocess.Popen[bytes]) -> None:
        def again(_asked: ContainerPlace) -> Optional[ContainerPlace]:
            raise Unreadable("the engine does not answer")

        gc.collect()
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(Unreadable, match="does not answer"):
            routes.open_sandbox(box(place(process.pid)), routes=ROUTES, reinspect=again)
        assert set(os.listdir("/proc/self/fd")) <= before

    def test_only_when_allowed(self, process: subprocess.Popen[bytes]) -> None:
        with pytest.raises(Unreadable, match="no route"):
            routes.open_sandbox(box(place(process.pid)), routes=("archive",))


def test_a_stopped_container_is_read_through_its_volume(tmp_path: Path) -> None:
    fill(tmp_path / "volume" / ".openclaw")
    mounts = (
        Mount(os.fsencode(tmp_path / "none"), b"/sandbox/.openclaw"),
        Mount(os.fsencode(tmp_path / "volume"), b"/etc/somewhere"),
        Mount(os.fsencode(tmp_path / "volume"), b"/sandbox"),
    )
    held = routes.open_sandbox(box(place(0, running=False, mounts=mounts)), routes=ROUTES)
    with held.root:
        assert (held.route, held.alive()) == ("volume", True)
        assert [agent.agent for state in held.states for agent in state.agents] == [b"main"]


def test_a_volume_that_is_a_link_is_not_held(tmp_path: Path) -> None:
    fill(tmp_path / "volume" / ".openclaw")
    (tmp_path / "link").symlink_to(tmp_path / "volume")
    mounts = (Mount(os.fsencode(tmp_path / "link"), b"/sandbox"),)
    with pytest.raises(Unreadable, match="not running; no mount holds"):
        routes.open_sandbox(box(place(0, running=False, mounts=mounts)), routes=ROUTES)


def test_nothing_to_read_says_why() -> None:
    sandbox = Sandbox("registry:x:y", "y", "nemoclaw", reason="no container was seen for it")
    with pytest.raises(Unreadable, match="no container was seen for it"):
        routes.open_sandbox(sandbox, routes=ROUTES)
    with pytest.raises(Unreadable, match="not running"):
        routes.open_sandbox(box(place(0, running=False)), routes=ROUTES)


def test_a_survey_lists_and_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / ".openclaw")
    sessions = tmp_path / ".openclaw" / "agents" / "main" / "sessions"
    held = routes.open_sandbox(Sandbox("bare:x", "home", "bare", home=HomePlace(os.fsencode(tmp_path))), routes=ROUTES)
    monkeypatch.setattr(routes.HeldDir, "open_file", None)
    try:
        found = routes.survey(held)
    finally:
        held.close()
    assert (found.readable, found.route, found.store, found.agents) == (True, "volume", "jsonl", ("main",))
    assert found.session_count == 1
    assert found.session_bytes == sum(path.stat().st_size for path in sessions.glob("a.jsonl*"))
    assert [name for name, _size, _mtime in found.memory_files] == ["MEMORY.md"]


def test_a_survey_of_an_empty_home_is_unreadable_with_a_reason(tmp_path: Path) -> None:
    held = routes.open_sandbox(Sandbox("bare:x", "home", "bare", home=HomePlace(os.fsencode(tmp_path))), routes=ROUTES)
    try:
        found = routes.survey(held)
    finally:
        held.close()
    assert not found.readable
    assert found.reason == "no OpenClaw state directory was found in it"


def surveyed(home: Path) -> Survey:
    held = routes.open_sandbox(Sandbox("bare:x", "home", "bare", home=HomePlace(os.fsencode(home))), routes=ROUTES)
    try:
        return routes.survey(held)
    finally:
        held.close()


def test_a_survey_tells_unreadable_from_empty_and_counts_files_only(tmp_path: Path) -> None:
    fill(tmp_path / ".openclaw")
    agents = tmp_path / ".openclaw/agents"
    (agents / "main/sessions/planted.jsonl").symlink_to("/etc/passwd")
    os.mkfifo(agents / "main/sessions/pipe.jsonl")
    (agents / "README").write_bytes(b"no agent\n")
    (agents / "quiet/sessions").mkdir(parents=True)
    found = surveyed(tmp_path)
    assert (found.agents, found.session_count, found.reason) == (("main", "quiet"), 1, None)
    (agents / "sly").mkdir()
    (agents / "sly/sessions").symlink_to(agents / "main/sessions")
    found = surveyed(tmp_path)
    assert found.session_count == 1 and found.reason is not None and found.reason.startswith("sessions of agent sly: ")
    assert found.readable


def test_where_no_agent_s_sessions_can_be_listed_nothing_is_known_of_them(tmp_path: Path) -> None:
    (tmp_path / ".openclaw/agents/main").mkdir(parents=True)
    (tmp_path / ".openclaw/agents/main/sessions").symlink_to("/etc")
    found = surveyed(tmp_path)
    assert not found.readable and found.reason is not None and "sessions of agent main" in found.reason


def test_hostile_agent_names_come_back_escaped(tmp_path: Path) -> None:
    (tmp_path / ".openclaw" / "agents" / "\x1b[31m\n$(id)" / "sessions").mkdir(parents=True)
    held = routes.open_sandbox(Sandbox("bare:x", "home", "bare", home=HomePlace(os.fsencode(tmp_path))), routes=ROUTES)
    try:
        assert routes.survey(held).agents == ("\\x1b[31m\\n$(id)",)
    finally:
        held.close()
