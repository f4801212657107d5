# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Route archive: what is asked of an engine and how often, what is believed of its answers."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import tarfile
from collections.abc import Iterator
from typing import Callable, Optional

import pytest

from clawmetry_sync.dockerapi import Engine, EngineError, PathStat, parse_path_stat
from clawmetry_sync.errors import Refused, Unreadable
from clawmetry_sync.read import layout, spool
from clawmetry_sync.read.archive import INTERVAL_S, ArchiveRoot

SESSIONS = b"sandbox/.openclaw/agents/main/sessions"
STAMP = 1_795_000_000_123_456_789


class FakeArchive(Engine):
    """An engine with one container, whose files are a dictionary."""

    def __init__(self) -> None:
        super().__init__("unix:///nowhere")
        self.files: dict[bytes, bytes] = {}
        self.links: set[bytes] = set()
        self.times: dict[bytes, int] = {}
        self.asked: list[str] = []
        self.broken: Optional[EngineError] = None
        self.tamper: Callable[[bytes], bytes] = lambda data: data

    def put(self, path: bytes, data: bytes, time_ns: int = STAMP) -> None:
        fresh = path not in self.files
        self.files[path] = data
        self.times[path] = time_ns
        if fresh:
            self.times[path.rpartition(b"/")[0]] = time_ns

    def _is_dir(self, path: bytes) -> bool:
        return not path or any(name.startswith(path + b"/") for name in (*self.files, *self.links))

    def path_stat(self, container_id: str, path: bytes) -> Optional[PathStat]:
        self.asked.append("HEAD " + path.decode())
        if self.broken is not None:
            raise self.broken
        stamp = self.times.get(path, STAMP)
        if path in self.links:
            return PathStat("other", 0, stamp)
        if path in self.files:
            return PathStat("file", len(self.files[path]), stamp)
        return PathStat("dir", 4096, stamp) if self._is_dir(path) else None

    @contextlib.contextmanager
    def archive(self, container_id: str, path: bytes, *, timeout_s: float) -> Iterator[Callable[[int], bytes]]:
        self.asked.append("GET " + path.decode())
        if self.broken is not None:
            raise self.broken
        base = path.rpartition(b"/")[0] + b"/"
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as archive:
            if self._is_dir(path):
                info = tarfile.TarInfo(path[len(base) :].decode())
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            for name in sorted({*self.files, *self.links}):
                if name == path or name.startswith(path + b"/"):
                    self._add(archive, name, base)
        stream = io.BytesIO(self.tamper(made.getvalue()))
        yield lambda limit: stream.read(min(limit, 777))

    def _add(self, archive: tarfile.TarFile, name: bytes, base: bytes) -> None:
        parts = name[len(base) :].split(b"/")
        for depth in range(2, len(parts)):
            info = tarfile.TarInfo(b"/".join(parts[:depth]).decode())
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
        info = tarfile.TarInfo(os.fsdecode(b"/".join(parts)))
        info.mtime = STAMP // 10**9
        if name in self.links:
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/openshell"
            archive.addfile(info)
        else:
            info.size = len(self.files[name])
            archive.addfile(info, io.BytesIO(self.files[name]))


@pytest.fixture
def engine() -> FakeArchive:
    fake = FakeArchive()
    fake.put(SESSIONS + b"/a.jsonl", b'{"a":1}\n')
    fake.put(SESSIONS + b"/a.jsonl.reset.2026-11-21T19-43-04.582Z", b'{"a":0}\n')
    fake.put(SESSIONS + b"/sessions.json", b"{}")
    fake.put(b"sandbox/.openclaw/workspace/MEMORY.md", b"# Memory")
    fake.put(b"sandbox/.openclaw/workspace/memory/2026-11-21.md", b"day")
    fake.put(b"sandbox/.openclaw/openclaw.json", b"secret")
    return fake


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def root(engine: FakeArchive, clock: Clock) -> Iterator[ArchiveRoot]:
    held = ArchiveRoot(engine, "0" * 64, running=True, clock=clock)
    held.look(at_once=True)
    yield held
    held.close()


def read(root: ArchiveRoot, name: bytes) -> bytes:
    with root.open_dir(SESSIONS) as directory:
        fd = directory.open_file(name)
    try:
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)


def test_it_looks_like_a_held_root(root: ArchiveRoot, engine: FakeArchive) -> None:
    (state,) = layout.find_states(root)
    assert [agent.agent for agent in state.agents] == [b"main"] and state.workspaces == (b"sandbox/.openclaw/workspace",)
    assert [name for name, _seen in layout.memory_files(root, state.workspaces[0])] == [b"MEMORY.md", b"memory/2026-11-21.md"]
    with root.open_dir(SESSIONS) as directory:
        seen = directory.stat(b"a.jsonl")
        assert seen is not None and (seen.st_size, seen.st_mtime_ns, seen.st_ino) == (8, STAMP, 0)
        assert [meaning.kind for _name, meaning in layout.session_files(directory)[0]] == ["reset", "live"]
        fd = directory.open_file(b"a.jsonl")
        spooled = directory.fstat(fd)
        os.close(fd)
        assert (spooled.st_size, spooled.st_mtime_ns, spooled.st_ino) == (8, STAMP, 0)
    assert read(root, b"a.jsonl") == b'{"a":1}\n'
    assert not [asked for asked in engine.asked if "openclaw.json" in asked or asked.startswith("GET sandbox/.openclaw ")]


def test_nothing_is_asked_before_it_is_time_and_nothing_fetched_that_did_not_change(
    root: ArchiveRoot, engine: FakeArchive, clock: Clock
) -> None:
    engine.asked.clear()
    root.look()
    read(root, b"a.jsonl")
    read(root, b"a.jsonl")
    clock.now += INTERVAL_S - 1
    root.look()
    assert engine.asked == ["GET " + (SESSIONS + b"/a.jsonl").decode()]
    engine.asked.clear()
    clock.now += 2
    root.look()
    assert engine.asked and not [asked for asked in engine.asked if asked.startswith("GET")]
    assert not [asked for asked in engine.asked if ".reset." in asked]


def test_growth_and_a_new_file_are_seen(root: ArchiveRoot, engine: FakeArchive, clock: Clock) -> None:
    with root.open_dir(SESSIONS) as directory:
        before = directory.listing_mark()
    assert read(root, b"a.jsonl") == b'{"a":1}\n'
    engine.put(SESSIONS + b"/a.jsonl", b'{"a":1}\n{"a":2}\n', STAMP + 1)
    engine.put(SESSIONS + b"/b.jsonl", b"{}\n", STAMP + 1)
    clock.now += INTERVAL_S
    root.look()
    with root.open_dir(SESSIONS) as directory:
        assert directory.listing_mark() != before
        assert directory.stat(b"b.jsonl") is not None
    assert read(root, b"a.jsonl") == b'{"a":1}\n{"a":2}\n'


def test_a_link_on_the_way_ends_the_way(engine: FakeArchive) -> None:
    engine.files = {path: data for path, data in engine.files.items() if b"/agents/" not in path}
    engine.links.add(b"sandbox/.openclaw/agents")
    engine.files[b"sandbox/.openclaw-data/agents/main/sessions/a.jsonl"] = b"{}\n"
    held = ArchiveRoot(engine, "0" * 64, running=False)
    held.look(at_once=True)
    assert not [asked for asked in engine.asked if asked.partition(" ")[2].startswith("sandbox/.openclaw/agents/")]
    assert [agent.sessions for state in layout.find_states(held) for agent in state.agents] == [
        b"sandbox/.openclaw-data/agents/main/sessions"
    ]


def test_links_are_listed_and_refused(engine: FakeArchive) -> None:
    engine.links.add(SESSIONS + b"/evil.jsonl")
    held = ArchiveRoot(engine, "0" * 64, running=False)
    held.look(at_once=True)
    with pytest.raises(Refused):
        read(held, b"evil.jsonl")
    assert not [asked for asked in engine.asked if "evil" in asked]


def test_a_file_that_became_a_link_between_look_and_fetch_is_refused(root: ArchiveRoot, engine: FakeArchive) -> None:
    del engine.files[SESSIONS + b"/a.jsonl"]
    engine.links.add(SESSIONS + b"/a.jsonl")
    with pytest.raises(Refused):
        read(root, b"a.jsonl")


@pytest.mark.parametrize("tamper", [lambda data: data[:600], lambda data: b"\0" * 1024, lambda data: data[:1024] * 2 + data[1024:]])
def test_a_stream_with_less_or_more_than_the_file_gives_nothing(
    root: ArchiveRoot, engine: FakeArchive, tamper: Callable[[bytes], bytes]
) -> None:
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    engine.tamper = tamper
    with pytest.raises(Unreadable):
        read(root, b"a.jsonl")
    assert set(os.listdir("/proc/self/fd")) <= before


def test_an_engine_that_fails_is_left_alone_until_it_answers_again(root: ArchiveRoot, engine: FakeArchive, clock: Clock) -> None:
    """Reading must not wait for a hung engine once for each file; what was seen last stays."""
    engine.broken = EngineError("hangs", "engine gave no answer")
    clock.now += INTERVAL_S
    with pytest.raises(Unreadable):
        root.look()
    engine.asked.clear()
    with pytest.raises(Unreadable, match="not asked for now"):
        read(root, b"a.jsonl")
    assert engine.asked == [] and layout.find_states(root)
    engine.broken = None
    clock.now += INTERVAL_S
    root.look()
    assert read(root, b"a.jsonl")


def test_a_fetch_that_hangs_is_the_last_until_a_look_goes_well(root: ArchiveRoot, engine: FakeArchive, clock: Clock) -> None:
    engine.broken = EngineError("hangs", "engine gave no answer")
    with pytest.raises(EngineError):
        read(root, b"a.jsonl")
    with pytest.raises(Unreadable, match="not asked for now"):
        read(root, b"sessions.json")
    engine.broken = None
    clock.now += INTERVAL_S
    root.look()
    assert read(root, b"sessions.json") == b"{}"


def test_what_is_too_large_is_not_fetched(root: ArchiveRoot, engine: FakeArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "MAX_FILE_BYTES", 7)
    engine.asked.clear()
    with pytest.raises(Refused, match="larger"):
        read(root, b"a.jsonl")
    assert engine.asked == []


def test_a_large_file_leaves_no_name_on_disk(engine: FakeArchive, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "MAX_MEMORY_BYTES", 4)
    held = ArchiveRoot(engine, "0" * 64, running=True, spool_dir=str(tmp_path))
    held.look(at_once=True)
    assert read(held, b"a.jsonl") == b'{"a":1}\n'
    assert os.listdir(str(tmp_path)) == []
    held.close()


def test_names_that_lead_elsewhere_are_refused(root: ArchiveRoot) -> None:
    with root.open_dir(SESSIONS) as directory:
        for name in (b"../../../openclaw.json", b"..", b"a\0"):
            with pytest.raises(Refused):
                directory.open_file(name)
        with pytest.raises(FileNotFoundError):
            directory.open_file(b"openclaw.json")


def test_stat_header_of_docker() -> None:
    import base64

    def stat(text: str) -> Optional[PathStat]:
        return parse_path_stat(base64.b64encode(text.encode()).decode())

    sample = '{"name":"x","size":25,"mode":%d,"mtime":"%s","linkTarget":""}'
    assert stat(sample % (0o600, "2026-11-18T11:06:40.455799523Z")) == PathStat("file", 25, 1795000000455799523)
    assert stat(sample % (0o600, "2026-11-18T12:06:40.4+01:00")) == PathStat("file", 25, 1795000000400000000)
    assert stat(sample % (1 << 31 | 0o755, "2026-11-18T11:06:40Z")) == PathStat("dir", 25, 1795000000000000000)
    assert stat(sample % (1 << 31 | 1 << 22 | 0o755, "2026-11-18T11:06:40Z")) == PathStat("dir", 25, 1795000000000000000)  # setgid
    for kind in (27, 26, 25, 24, 19):
        found = stat(sample % (1 << kind | 0o777, "2026-11-18T11:06:40Z"))
        assert found is not None and found.kind == "other"
    bad = ("", "[]", "{}", '{"name":1}', sample % (1, "yesterday"), sample.replace("25", "-1") % (1, "2026-11-18T11:06:40Z"), "1" * 9000)
    assert [stat(text) for text in bad] == [None] * len(bad)
    assert parse_path_stat("%%%") is None
