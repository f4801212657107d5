# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tar streams, as engines write them and as nobody should: parsed, one regular entry, never extracted (S17)."""

from __future__ import annotations

import contextlib
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawmetry_sync.errors import Refused, Unreadable
from clawmetry_sync.read.tar import Entry, TarReader, only_file, parse_pax

LINES = b'{"a":1}\n{"a":2}\n'


def header(
    name: bytes, size: int = 0, flag: bytes = b"0", *, magic: bytes = b"ustar\x0000", size_field: bytes = b"", prefix: bytes = b""
) -> bytes:
    """One header block made by hand, its checksum right."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = b"0000600\0"
    block[124:136] = size_field or b"%011o\0" % size
    block[136:148] = b"%011o\0" % 1_795_000_000
    block[148:156] = b" " * 8
    block[156:157] = flag
    block[257:265] = magic
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 512)


def file(name: bytes, data: bytes, **options: bytes) -> bytes:
    return header(name, len(data), **options) + padded(data)


def pax(*records: tuple[bytes, bytes], flag: bytes = b"x") -> bytes:
    body = b""
    for key, value in records:
        length = len(key) + len(value) + 3
        while len(b"%d" % length) + len(key) + len(value) + 3 != length:
            length += 1
        body += b"%d %s=%s\n" % (length, key, value)
    return header(b"PaxHeaders.0/x", len(body), flag) + padded(body)


END = b"\0" * 1024


def reader(data: bytes, step: int = 1000) -> TarReader:
    stream = io.BytesIO(data)
    return TarReader(lambda limit: stream.read(min(limit, step)))


def content(tar: TarReader) -> bytes:
    data = b""
    while True:
        piece = tar.read(100)
        if not piece:
            return data
        data += piece


def everything(data: bytes) -> list[Entry]:
    tar, found = reader(data), []
    while True:
        entry = tar.next()
        if entry is None:
            return found
        found.append(entry)


def test_one_file_of_an_engine() -> None:
    tar = reader(file(b"x.jsonl", LINES) + END)
    assert only_file(tar, b"x.jsonl", 1000) == Entry(b"x.jsonl", "file", len(LINES), 1_795_000_000)
    assert content(tar) == LINES
    assert tar.next() is None


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_a_directory_in_every_format(form: int) -> None:
    made = io.BytesIO()
    long = "s" * 90 + ".jsonl.reset.2026-11-21T19-43-04.582Z"
    with tarfile.open(fileobj=made, mode="w", format=form) as archive:
        for name, kind in (("sessions", tarfile.DIRTYPE), ("sessions/a.jsonl", tarfile.REGTYPE), ("sessions/l", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size, info.mtime = (
                kind,
                "/etc/shadow",
                len(LINES) if kind == tarfile.REGTYPE else 0,
                1_795_000_000,
            )
            archive.addfile(info, io.BytesIO(LINES))
        info = tarfile.TarInfo("sessions/" + (long if form != tarfile.USTAR_FORMAT else long[:80]))
        info.size, info.mtime = 3, 1_795_000_000.5 if form == tarfile.PAX_FORMAT else 1_795_000_000
        archive.addfile(info, io.BytesIO(b"abc"))
    found = everything(made.getvalue())
    assert [(entry.kind, entry.size) for entry in found] == [("dir", 0), ("file", len(LINES)), ("other", 0), ("file", 3)]
    assert found[3].name.startswith(b"sessions/sss")
    assert form == tarfile.USTAR_FORMAT or found[3].name == b"sessions/" + long.encode()


def test_prefix_field_is_part_of_the_name() -> None:
    assert everything(file(b"x.jsonl", b"", prefix=b"a/b") + END)[0].name == b"a/b/x.jsonl"


HOSTILE = {
    "symbolic link": header(b"x.jsonl", 0, b"2"),
    "hard link": header(b"x.jsonl", 0, b"1"),
    "character device": header(b"x.jsonl", 0, b"3"),
    "block device": header(b"x.jsonl", 0, b"4"),
    "FIFO": header(b"x.jsonl", 0, b"6"),
    "directory": header(b"x.jsonl/", 0, b"5"),
    "link that claims content": header(b"x.jsonl", 512, b"2") + padded(b"secret"),
    "another name": file(b"y.jsonl", LINES),
    "name in a directory": file(b"sub/x.jsonl", LINES),
    "dots": file(b"../x.jsonl", LINES),
    "pax gives another name": pax((b"path", b"../../etc/shadow")) + file(b"x.jsonl", LINES),
    "pax twice": pax((b"path", b"a")) + pax((b"path", b"x.jsonl")) + file(b"x.jsonl", LINES),
    "pax key twice": pax((b"path", b"a"), (b"path", b"x.jsonl")) + file(b"x.jsonl", LINES),
    "pax and GNU name": pax((b"path", b"x.jsonl")) + header(b"L", 8, b"L") + padded(b"x.jsonl\0") + file(b"z", LINES),
    "global pax header": pax((b"path", b"x.jsonl"), flag=b"g") + file(b"z", LINES),
    "sparse map in pax": pax((b"GNU.sparse.realsize", b"10")) + file(b"x.jsonl", LINES),
    "old sparse file": header(b"x.jsonl", 10, b"S") + padded(b"x"),
    "pax size without a number": pax((b"size", b"-1")) + file(b"x.jsonl", LINES),
    "pax size beyond the cap": pax((b"size", b"99999999999")) + file(b"x.jsonl", LINES),
    "size beyond the cap": header(b"x.jsonl", 2000) + padded(b"x" * 2000),
    "size in base 256 beyond the cap": header(b"x.jsonl", size_field=b"\x80" + b"\0" * 6 + b"\xff" * 5),
    "negative size": header(b"x.jsonl", size_field=b"\xff" * 12),
    "size that is no number": header(b"x.jsonl", size_field=b"zzzzzzzzzzz\0"),
    "broken pax": header(b"p", 10, b"x") + padded(b"99 path=x\n") + file(b"x.jsonl", LINES),
    "pax of a megabyte": header(b"p", 1 << 20, b"x") + b"\0" * (1 << 20) + file(b"x.jsonl", LINES),
    "unknown kind": header(b"x.jsonl", 0, b"V"),
    "NUL in the name": pax((b"path", b"x.jsonl\0")) + file(b"x.jsonl", LINES),
    "no ustar": header(b"x.jsonl", 0, magic=b"\0" * 8),
    "wrong checksum": b"y" + file(b"x.jsonl", LINES)[1:],
    "empty": b"",
    "cut in the header": file(b"x.jsonl", LINES)[:300],
}


@pytest.mark.parametrize("what", HOSTILE)
def test_anything_but_the_file_asked_for_is_refused(what: str) -> None:
    with pytest.raises(Unreadable):
        only_file(reader(HOSTILE[what] + (END if HOSTILE[what] and not what.startswith("cut") else b"")), b"x.jsonl", 1000)


def test_content_that_is_cut_short_is_no_content() -> None:
    tar = reader(file(b"x.jsonl", b"z" * 600)[:700])
    only_file(tar, b"x.jsonl", 1000)
    with pytest.raises(Unreadable, match="cut short"):
        content(tar)


def test_what_a_file_holds_is_never_taken_for_a_header() -> None:
    inner = file(b"x.jsonl", b"evil") + END
    found = everything(file(b"a.jsonl", inner) + file(b"b.jsonl", b"") + END)
    assert [entry.name for entry in found] == [b"a.jsonl", b"b.jsonl"]


def test_a_time_without_sense_is_no_reason_to_refuse() -> None:
    block = bytearray(header(b"x.jsonl", 0))
    block[136:148] = b"\xff" * 12
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert everything(bytes(block) + END)[0].mtime == 0


def test_more_entries_than_anyone_has_end_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clawmetry_sync.read.tar.MAX_ENTRIES", 10)
    with pytest.raises(Refused, match="entries"):
        everything(file(b"x", b"") * 20 + END)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=600), st.sampled_from(list(HOSTILE.values())), st.just(file(b"x.jsonl", LINES)))),
    st.integers(1, 600),
)
def test_damaged_streams_end_in_one_family_of_errors(pieces: list[bytes], step: int) -> None:
    tar = reader(b"".join(pieces), step)
    try:
        while tar.next() is not None:
            content(tar)
    except Unreadable:
        pass


@given(st.binary(max_size=200))
def test_damaged_pax_headers_too(data: bytes) -> None:
    with contextlib.suppress(Refused):
        parse_pax(data)
