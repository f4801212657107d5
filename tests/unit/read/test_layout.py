# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names of transcripts, and where state directories lie below a root."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawmetry_sync.read import layout
from clawmetry_sync.read.opener import HeldDir


@pytest.mark.parametrize(
    "name, wanted",
    [
        (b"f8344fbd.jsonl", ("f8344fbd", "live", "")),
        (b"f8344fbd.jsonl.reset.2026-11-21T19-43-04.582Z", ("f8344fbd", "reset", "2026-11-21T19-43-04.582Z")),
        (b"f8344fbd.jsonl.bak.2026-11-21T19-43-04.582Z", ("f8344fbd", "bak", "2026-11-21T19-43-04.582Z")),
        (b"f8344fbd.jsonl.deleted.2026-11-21T19-43-04.582Z", ("f8344fbd", "deleted", "2026-11-21T19-43-04.582Z")),
        (b"a.b-topic-7.jsonl", ("a.b-topic-7", "live", "")),
        ("\u202e\x1b[31m\n.jsonl".encode(), ("\u202e\x1b[31m\n", "live", "")),
        (b"f8344fbd.jsonl.lock", None),
        (b"f8344fbd.jsonl.bak-123-1795000000000", None),
        (b"f8344fbd.jsonl.repair-123-1795000000000.tmp", None),
        (b"f8344fbd.jsonl.deleted.2026.0a1b.zst", ("f8344fbd", "deleted", "2026.0a1b.zst")),
        (b"f8344fbd.jsonl.zst", None),
        (b"f8344fbd.jsonl.reset.", None),
        (b"f8344fbd.trajectory.jsonl", None),
        (b"f8344fbd.checkpoint.1.jsonl", None),
        (b"sessions.json", None),
        (b".jsonl", None),
        (b"x.jsonl2", None),
    ],
)
def test_what_a_name_says(name: bytes, wanted: Optional[tuple[str, str, str]]) -> None:
    found = layout.parse_session_name(name)
    assert (None if found is None else (found.session.decode(), found.kind, found.stamp.decode())) == wanted


@given(st.binary(max_size=60))
def test_any_name_is_taken_or_not(name: bytes) -> None:
    for candidate in (name, name + b".jsonl", b"a.jsonl.bak." + name):
        found = layout.parse_session_name(candidate)
        assert found is None or (found.session and b"/" not in found.session)


def test_archived_parts_of_a_session_come_before_its_live_file(tmp_path: Path) -> None:
    names = ["b.jsonl", "a.jsonl", "a.jsonl.reset.2026-02", "a.jsonl.bak.2026-01", "a.jsonl.lock", "sessions.json"]
    for name in names:
        (tmp_path / name).touch()
    with HeldDir.hold(str(tmp_path).encode()) as held:
        found, more = layout.session_files(held)
    assert [name for name, _meaning in found] == [b"a.jsonl.bak.2026-01", b"a.jsonl.reset.2026-02", b"a.jsonl", b"b.jsonl"] and not more


def test_listing_is_bounded_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_SESSION_FILES", 3)
    for number in range(5):
        (tmp_path / ("%d.jsonl" % number)).touch()
    with HeldDir.hold(str(tmp_path).encode()) as held:
        found, more = layout.session_files(held)
    assert len(found) == 3 and more


def states(root: Path) -> dict[str, list[str]]:
    with HeldDir.hold(str(root).encode()) as held:
        return {state.path.decode(): [agent.sessions.decode() for agent in state.agents] for state in layout.find_states(held)}


def test_both_nemoclaw_layouts_profiles_and_homes(tmp_path: Path) -> None:
    for path in (
        "sandbox/.openclaw/agents/main/sessions",
        "sandbox/.openclaw/agents/writer/sessions",
        "root/.openclaw-dev/agents/main/sessions",
        "home/someone/.openclaw/workspace",
        "data/agents/main/sessions",
        "srv/.openclaw/agents/main/sessions",
    ):
        (tmp_path / path).mkdir(parents=True)
    assert states(tmp_path) == {
        "sandbox/.openclaw": ["sandbox/.openclaw/agents/main/sessions", "sandbox/.openclaw/agents/writer/sessions"],
        "root/.openclaw-dev": ["root/.openclaw-dev/agents/main/sessions"],
        "home/someone/.openclaw": [],
        "data": ["data/agents/main/sessions"],
    }


def test_early_layout_is_read_where_its_links_point_to(tmp_path: Path) -> None:
    """.openclaw/agents → .openclaw-data/agents: the real directory counts, the link is never followed."""
    real = tmp_path / "sandbox/.openclaw-data/agents/main/sessions"
    real.mkdir(parents=True)
    (tmp_path / "sandbox/.openclaw").mkdir()
    (tmp_path / "sandbox/.openclaw/agents").symlink_to("/sandbox/.openclaw-data/agents")
    assert states(tmp_path) == {"sandbox/.openclaw-data": ["sandbox/.openclaw-data/agents/main/sessions"]}


def test_links_and_files_in_place_of_directories_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "elsewhere/agents/main/sessions").mkdir(parents=True)
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "sandbox/.openclaw").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "app").write_text("a file")
    assert states(tmp_path) == {}


def test_memory_files_are_the_known_names_and_the_days(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    (workspace / "memory").mkdir(parents=True)
    for name in ("USER.md", "MEMORY.md", "secret.md", "memory/2026-11-21.md", "memory/2026-11-20.md", "memory/raw.txt"):
        (workspace / name).write_text("x")
    (workspace / "SOUL.md").symlink_to("/etc/passwd")
    (workspace / "memory/2026-11-19.md").symlink_to("/etc/passwd")
    with HeldDir.hold(str(tmp_path).encode()) as held:
        found = [name.decode() for name, _seen in layout.memory_files(held, b"workspace")]
        assert layout.memory_files(held, b"absent") == []
    assert found == ["MEMORY.md", "USER.md", "memory/2026-11-20.md", "memory/2026-11-21.md"]
