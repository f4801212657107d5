# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Route exec: what is run, and what is believed of a sandbox's own word for its files."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from typing import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawmetry_sync.dockerapi import EngineError
from clawmetry_sync.dockerexec import _stdout_of
from clawmetry_sync.errors import Unreadable
from clawmetry_sync.read import layout
from clawmetry_sync.read.execroute import ExecRoot, parse_listing, parse_news

SESSIONS = b"sandbox/.openclaw/agents/main/sessions"
LISTING = b"""\
41ed 4096 1795296100 /sandbox/.openclaw/agents/main
41ed 4096 1795296100 /sandbox/.openclaw/agents/main/sessions
81a4 8 1795296115 /sandbox/.openclaw/agents/main/sessions/a.jsonl
a1ff 11 1795296115 /sandbox/.openclaw/agents/main/sessions/link.jsonl
21b6 0 1795296115 /sandbox/.openclaw/agents/main/sessions/device.jsonl
81a4 8 1795296115 /sandbox/.openclaw/workspace/MEMORY.md
81a4 8 1795296115 /sandbox/.openclaw/workspace/memory/2026-11-21.md
end-of-listing
"""


def test_a_listing_makes_a_tree() -> None:
    tree = parse_listing(LISTING)
    assert tree.seen[SESSIONS + b"/a.jsonl"].size == 8 and tree.seen[SESSIONS + b"/a.jsonl"].mtime_ns == 1795296115 * 10**9
    assert [tree.seen[SESSIONS + b"/" + name].kind for name in (b"a.jsonl", b"link.jsonl", b"device.jsonl")] == ["file", "other", "other"]
    assert tree.children[b"sandbox/.openclaw"] == (b"agents", b"workspace")


@pytest.mark.parametrize(
    "line",
    [
        b"81a4 8 1 /etc/shadow",
        b"81a4 8 1 /sandbox/.openclaw/openclaw.json",
        b"81a4 8 1 /sandbox/.openclaw/agents/main/agent/auth-profiles.json",
        b"81a4 8 1 /sandbox/.openclaw/agents/../../../etc/openshell/x.jsonl",
        b"81a4 8 1 /sandbox/.openclaw/agents/main/sessions/../../../openclaw.json",
        b"81a4 8 1 /sandbox/.openclaw/workspace/../openclaw.json.md/x",
        b"81a4 -8 1 /sandbox/.openclaw/agents/main/sessions/n.jsonl",
        b"zz 8 1 /sandbox/.openclaw/agents/main/sessions/n.jsonl",
        b"81a4 8 1 sandbox/.openclaw/agents/main/sessions/n.jsonl",
        b"81a4 8 1 /sandbox/.openclaw/agents/main/sessions/n\0.jsonl",
        b"81a4 99999999999999999999 1 /sandbox/.openclaw/agents/main/sessions/n.jsonl",
    ],
)
def test_a_line_that_names_anything_else_is_passed_over(line: bytes) -> None:
    assert parse_listing(line + b"\n" + LISTING) == parse_listing(LISTING)


def test_below_a_link_there_is_nothing() -> None:
    tree = parse_listing(b"a1ff 1 1 /sandbox/.openclaw/agents/evil\n81a4 8 1 /sandbox/.openclaw/agents/evil/sessions/x.jsonl\n" + LISTING)
    assert b"sandbox/.openclaw/agents/evil/sessions/x.jsonl" not in tree.seen


def test_a_listing_that_was_cut_is_no_listing() -> None:
    for data in (b"", LISTING[:-16], b'OCI runtime exec failed: exec: "/bin/sh": no such file\n'):
        with pytest.raises(Unreadable, match="did not come to its end"):
            parse_listing(data)


@given(st.binary(max_size=400))
def test_any_output_is_survived(data: bytes) -> None:
    parse_listing(data + b"\nend-of-listing\n")


def test_fixed_commands_and_one_listing_for_a_look() -> None:
    ran: list[tuple[str, ...]] = []

    @contextlib.contextmanager
    def run(argv: Sequence[str], timeout_s: float) -> Iterator[Callable[[int], bytes]]:
        ran.append(tuple(argv))
        if argv[0] == "/bin/sh":
            stream = io.BytesIO(LISTING)
        else:
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w") as archive:
                info = tarfile.TarInfo(argv[-1])
                info.size = 8
                archive.addfile(info, io.BytesIO(b'{"a":1}\n'))
            stream.seek(0)
        yield lambda limit: stream.read(min(limit, 100))

    now = [0.0]
    root = ExecRoot(run, "x", clock=lambda: now[0])
    root.look(at_once=True)
    root.look()
    assert len(ran) == 1 and ran[0][:2] == ("/bin/sh", "-c") and "mkdir" not in ran[0][2] and ">" not in ran[0][2]
    (state,) = layout.find_states(root)
    with root.open_dir(state.agents[0].sessions) as directory:
        os.close(directory.open_file(b"a.jsonl"))
    assert ran[1] == ("/bin/tar", "-c", "-f", "-", "-C", "/" + SESSIONS.decode(), "./a.jsonl")
    root.close()


def test_a_look_that_fails_is_repeated_ever_more_seldom() -> None:
    looks = []

    @contextlib.contextmanager
    def run(argv: Sequence[str], timeout_s: float) -> Iterator[Callable[[int], bytes]]:
        looks.append(now[0])
        yield lambda limit: b""

    now = [0.0]
    root = ExecRoot(run, "x", clock=lambda: now[0])
    for second in range(200):
        now[0] = float(second)
        with contextlib.suppress(Unreadable):
            root.look()
    assert looks == [0.0, 20.0, 60.0, 140.0]


def packed(place: str = SESSIONS.decode() + "/", **contents: bytes) -> bytes:
    """A tar stream of files in a place, as busybox and GNU tar name them, with the time of the listing's."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo("%s%s.jsonl" % (place, name))
            info.size, info.mtime = len(content), 1795296115
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


class Says:
    """A sandbox whose every call answers with the same bytes, in pieces."""

    def __init__(self, answer: bytes, step: int = 65536, error: bool = False) -> None:
        self.answer, self.step, self.error, self.calls = answer, step, error, 0

    @contextlib.contextmanager
    def run(self, argv: Sequence[str], timeout_s: float) -> Iterator[Callable[[int], bytes]]:
        self.calls += 1
        stream = io.BytesIO(self.answer)

        def read(limit: int) -> bytes:
            piece = stream.read(min(limit, self.step))
            if not piece and self.error:
                raise EngineError("hangs", "no answer")
            return piece

        yield read


def opened(root: ExecRoot, name: bytes) -> bytes:
    with root.open_dir(SESSIONS) as directory:
        fd = directory.open_file(name)
    try:
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)


@pytest.mark.parametrize("step", [1, 7, 65536])
def test_what_has_just_changed_comes_with_the_listing(step: int) -> None:
    says = Says(LISTING + packed(a=b'{"a":1}\n'), step)
    root = ExecRoot(says.run, "x")
    root.look(at_once=True)
    assert opened(root, b"a.jsonl") == opened(root, b"a.jsonl") == b'{"a":1}\n' and says.calls == 1
    root.close()


@pytest.mark.parametrize(
    "behind",
    [b"", b"\n", packed(a=b"longer than listed\n"), packed(b=b'{"a":1}\n'), packed(a=b"{}\n")[:600], b"x" * 2000, packed(a=bytes(2 << 20))],
    ids=["nothing", "a line", "another size", "another file", "cut", "no tar", "too much"],
)
def test_what_does_not_fit_the_listing_is_asked_for(behind: bytes) -> None:
    says = Says(LISTING + behind)
    root = ExecRoot(says.run, "x")
    root.look(at_once=True)
    with root.open_dir(SESSIONS) as directory:
        assert directory.names()[0] == [b"a.jsonl", b"device.jsonl", b"link.jsonl"]
    says.answer = packed("./", a=b'{"a":2}\n')
    assert opened(root, b"a.jsonl") == b'{"a":2}\n' and says.calls == 2
    root.close()


def test_of_more_than_is_kept_the_first_files_are() -> None:
    says = Says(LISTING + packed(a=b'{"a":1}\n', b=bytes(2 << 20)))
    root = ExecRoot(says.run, "x")
    root.look(at_once=True)
    assert opened(root, b"a.jsonl") == b'{"a":1}\n' and says.calls == 1
    root.close()


def test_a_call_that_stops_behind_the_listing_keeps_the_listing() -> None:
    says = Says(LISTING + packed(a=b'{"a":1}\n')[:700], error=True)
    root = ExecRoot(says.run, "x")
    root.look(at_once=True)
    assert root.trouble is None
    says.answer = LISTING[:-3]
    with pytest.raises(EngineError):
        root.look(at_once=True)


@given(st.binary(max_size=2000))
def test_any_stream_behind_a_listing_is_survived(data: bytes) -> None:
    parse_news(data)
    parse_news(packed(a=b"x") + data)


def frames(*parts: tuple[int, bytes]) -> bytes:
    return b"".join(bytes((kind, 0, 0, 0)) + len(data).to_bytes(4, "big") + data for kind, data in parts)


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_only_stdout_of_an_attached_stream(step: int) -> None:
    stream = io.BytesIO(frames((1, b"one"), (2, b"error" * 100), (1, b""), (1, b" two"), (0, b"x"), (1, b"!")))
    read = _stdout_of(lambda limit: stream.read(min(limit, step)))
    data = b""
    while True:
        piece = read(2)
        if not piece:
            break
        data += piece
    assert data == b"one two!"


@given(st.binary(max_size=100))
def test_a_broken_stream_ends(data: bytes) -> None:
    stream = io.BytesIO(data)
    read = _stdout_of(stream.read)
    while read(50):
        pass
