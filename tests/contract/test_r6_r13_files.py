# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""R6 to R13: half lines, rotations, rewrites, reused inodes, tiny files: every complete line once, whatever the file went through."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest

from support.ingest import Ingest
from support.node import Node
from support.tree import dumps, numbered

Change = Callable[[Node], None]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Ingest() as ingest:
        node = Node(tmp_path, ingest, poll_interval=0.05)
        yield node
        node.daemon.kill()


def rotated_by_rename(node: Node) -> None:
    """R7: the writer renames the transcript, adds to it under its new name, and starts another session."""
    old = node.path("one")
    new = old.with_name("one.jsonl.reset.2026-11-21T19-43-04.582Z")
    old.rename(new)
    with open(new, "ab") as stream:
        stream.write(b"".join(node.lines("one", 3)))
    node.append("two", 5)


def truncated_and_back(node: Node) -> None:
    """R8: O_TRUNC, then the same bytes and some more: what OpenClaw 7.1 does in ordinary turns."""
    data = node.path("one").read_bytes()
    node.write("one", b"", mode="wb")
    time.sleep(0.7)
    node.write("one", data + b"".join(node.lines("one", 4)))


def truncated_and_shorter(node: Node) -> None:
    """R8: other content, shorter than what was read."""
    node.write("one", b"".join(node.lines("one", 2)), mode="wb")


def rewritten_past_the_offset(node: Node) -> None:
    """R9: in place, the head replaced, longer than before; the lines that stayed the same are not new."""
    kept = node.path("one").read_bytes().splitlines(keepends=True)[3:]
    node.write("one", b"".join([*node.lines("one", 2, 300), *kept, *node.lines("one", 30)]), mode="r+b")


def inode_reused(node: Node) -> None:
    """R10: deleted, and another file gets its number and its name. (Asked of the file system until it does.)"""
    inode = node.path("one").stat().st_ino
    node.path("one").unlink()
    fillers = []
    for number in range(200):
        node.write("one", b"".join(node.lines("one", 12)) if number == 0 else node.path("one").read_bytes(), mode="wb")
        if node.path("one").stat().st_ino == inode:
            break
        filler = node.home / ("filler-%d" % number)
        node.path("one").rename(filler)
        fillers.append(filler)
        shutil.copyfile(filler, node.path("one"))
    for filler in fillers:
        filler.unlink()


def replaced_atomically(node: Node) -> None:
    """R11: a repaired copy is renamed over the transcript: the same prefix, then more."""
    copy = node.path("one").with_name("one.jsonl.repair-77-1795000000000.tmp")
    copy.write_bytes(node.path("one").read_bytes() + b"".join(node.lines("one", 3)))
    copy.rename(node.path("one"))


def compacted(node: Node) -> None:
    """R11: sessions.compact: the live file becomes .bak, a new one holds its last lines and goes on."""
    data = node.path("one").read_bytes()
    node.path("one").rename(node.path("one").with_name("one.jsonl.bak.2026-11-21T19-43-04.582Z"))
    node.write("one", b"".join(data.splitlines(keepends=True)[-4:]))
    node.append("one", 5)


def deleted_after_rename(node: Node) -> None:
    """R11: sessions.delete keeps the file as .deleted.<time>."""
    node.append("one", 2)
    node.path("one").rename(node.path("one").with_name("one.jsonl.deleted.2026-11-21T19-43-04.582Z"))


CHANGES: list[Change] = [
    rotated_by_rename,
    truncated_and_back,
    truncated_and_shorter,
    rewritten_past_the_offset,
    inode_reused,
    replaced_atomically,
    compacted,
    deleted_after_rename,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_r7_r11_daemon_running(node: Node, change: Change) -> None:
    node.append("one", 10, 100)
    node.daemon.start()
    node.arrived()
    change(node)
    node.arrived()
    node.append("one", 2)
    node.arrived()
    node.no_more(0.6)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_r7_r11_daemon_stopped(node: Node, change: Change) -> None:
    node.append("one", 10, 100)
    node.daemon.start()
    node.arrived()
    assert node.daemon.terminate() == 0
    change(node)
    node.append("one", 2)
    node.daemon.start()
    node.arrived()
    # A restart in the middle of the second reading must not forget what it was comparing with.
    assert node.daemon.terminate() == 0
    node.append("one", 2)
    node.daemon.start()
    node.arrived()
    node.no_more(0.6)


def test_r11_compacted_before_the_first_start(node: Node) -> None:
    """Nothing was sent yet, and the .bak and the live file already repeat each other."""
    node.append("one", 10, 100)
    compacted(node)
    node.daemon.start()
    node.arrived()
    node.no_more(0.6)


def test_r7_many_rewrites_in_a_row(node: Node) -> None:
    """Twenty O_TRUNC rewrites with a growing tail, faster than the daemon looks."""
    node.append("one", 50, 200)
    node.daemon.start()
    for _round in range(20):
        data = node.path("one").read_bytes()
        node.write("one", data + b"".join(node.lines("one", 1)), mode="wb")
        time.sleep(0.05)
    node.arrived()
    node.no_more(0.6)


def test_r6_half_line_is_neither_sent_nor_skipped(node: Node) -> None:
    node.append("one", 2)
    line = dumps(numbered(2))
    node.write("one", line[:20])
    node.daemon.start()
    node.arrived()
    node.no_more(2.0)
    node.daemon.kill()
    node.write("one", line[20:30])
    node.daemon.start()
    node.no_more(2.0)
    (source,) = node.daemon.status()["sources"]
    assert source["lag_bytes"] == 30 and source["size"] == source["offset"] + 30
    node.write("one", line[30:-1])
    node.no_more(1.0)
    node.write("one", b"\n")
    node.expect("one", numbered(2))
    node.arrived()
    node.no_more(0.5)


def test_r12_tiny_files_and_equal_beginnings(node: Node) -> None:
    node.write("newline", b"\n")
    node.write("byte", b"{")
    node.write("tiny", b"{}\n")
    node.expect("tiny", {})
    beginning = b"".join(dumps(numbered(number, 100)) for number in range(40))
    for session in ("same-a", "same-b"):
        node.write(session, beginning)
        node.expect(session, *(numbered(number, 100) for number in range(40)))
        node.write(session, dumps({"end": session}))
        node.expect(session, {"end": session})
    node.daemon.start()
    node.arrived()
    node.write("byte", b"}\n")
    node.expect("byte", {})
    node.arrived()
    node.no_more(0.5)


def test_r13_same_path_in_two_sandboxes(node: Node) -> None:
    """Two state directories, the same agent and session: two cursors, two sources at the ingest."""
    other = node.home / ".openclaw-dev/agents/main/sessions"
    other.mkdir(parents=True)
    node.append("one", 5)
    (other / "one.jsonl").write_bytes(node.path("one").read_bytes() + dumps({"only": "dev"}))
    node.daemon.start()
    node.ingest.wait_events(11)
    node.daemon.kill()
    node.ingest.check()
    by_name = {source.name: len(events) for (source, _file), events in node.ingest.events.items()}
    assert sorted(by_name.values()) == [5, 6] and len(by_name) == 2


@pytest.mark.parametrize("whole_home", [False, True], ids=["state", "home"])
@pytest.mark.parametrize("is_running", [True, False], ids=["running", "stopped"])
def test_r13_recreated_under_the_same_name(node: Node, is_running: bool, whole_home: bool) -> None:
    """Everything is removed and made anew: same path, same session, other lines. No old cursor hides them."""
    node.append("one", 10)
    node.daemon.start()
    node.arrived()
    if not is_running:
        assert node.daemon.terminate() == 0
    shutil.rmtree(node.home if whole_home else node.home / ".openclaw")
    os.makedirs(node.sessions)
    node.append("one", 25)
    if not is_running:
        node.daemon.start()
    node.arrived()
    node.append("one", 1)
    node.arrived()
    node.no_more(0.5)
