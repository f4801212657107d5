# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""A tar stream, read entry by entry and never extracted: no path of it is ever opened, made or followed.

Only what an engine writes for a container is understood: ustar headers, a long name (pax ``path``,
GNU ``L``) and a size beyond the header's digits. All else that could make one entry look like another
(global headers, sparse maps, two pax headers in a row, names with ``..``) ends the reading.
Source: POSIX pax(1), "ustar Interchange Format"; Go's archive/tar, which Docker and Podman use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional

from ..errors import Refused, Unreadable, shown

BLOCK = 512
MAX_ENTRIES = 200_000
MAX_EXTENSION_BYTES = 64 * 1024
MAX_NAME_BYTES = 4096
PIECE = 256 * 1024
_FILE, _DIR = (b"0", b"\0"), b"5"
# Links, devices and FIFOs: told apart from files, never read.
_OTHER = b"123467"
# What a pax header may say beside path and size; none of it matters for reading a file's bytes.
_HARMLESS = (b"linkpath", b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname", b"comment")
_HARMLESS_PREFIXES = (b"SCHILY.xattr.", b"LIBARCHIVE.")

Read = Callable[[int], bytes]


@dataclass(frozen=True)
class Entry:
    """One entry: its name without leading "./" or slashes at either end, and what it is."""

    name: bytes
    kind: str  # file | dir | other
    size: int  # bytes of content in the stream
    mtime: int  # seconds


def _number(field: bytes) -> int:
    """Return an octal or base-256 field. Raises Refused when it is neither, or negative."""
    digits = field.strip(b" \0")
    if field[0] == 0x80:
        value = int.from_bytes(field[1:], "big")
    elif not digits.strip(b"01234567"):
        value = int(digits or b"0", 8)
    else:
        value = -1
    if not 0 <= value < 1 << 62:
        raise Refused("tar header with a bad number")
    return value


def _time(field: bytes) -> int:
    """A file's time is whatever its owner set; one that makes no sense (before 1970) is no reason to refuse the file."""
    try:
        return _number(field)
    except Refused:
        return 0


def _checked(header: bytes) -> None:
    stated = _number(header[148:156])
    if sum(header[:148]) + 8 * 0x20 + sum(header[156:]) != stated:
        raise Refused("tar header with a wrong checksum")
    if header[257:262] != b"ustar":
        raise Refused("not a ustar header")


def _clean(name: bytes) -> bytes:
    """Return NAME relative and in parts; Refused when it could mean a place outside."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts or b"\0" in name or len(name) > MAX_NAME_BYTES:
        raise Refused("tar entry with a bad name", where=shown(name))
    return b"/".join(parts)


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """Return the records of a pax header that we heed: ``b"30 path=agents/x.jsonl\\n"`` gives {path: …}. Raises Refused."""
    found: dict[bytes, bytes] = {}
    seen: set[bytes] = set()
    while data:
        digits, blank, _rest = data[:24].partition(b" ")
        length = int(digits) if blank and digits.isdigit() and len(digits) < 8 else 0
        record = data[len(digits) + 1 : length]
        key, equals, value = record[:-1].partition(b"=")
        if not (len(digits) + 3 < length <= len(data)) or record[-1:] != b"\n" or not equals or key in seen:
            raise Refused("malformed pax header")
        seen.add(key)
        if key in (b"path", b"size"):
            found[key] = value
        elif key not in _HARMLESS and not key.startswith(_HARMLESS_PREFIXES):
            raise Refused("pax header with an unexpected key", where=shown(key, 40))
        data = data[length:]
    return found


class TarReader:
    """Entries of the stream that READ returns at most n bytes of at a time, b"" at its end."""

    def __init__(self, read: Read) -> None:
        self._source = read
        self._left = 0  # of the present entry's content
        self._padding = 0
        self._entries = 0

    def _exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            piece = self._source(min(length - len(data), PIECE))
            if not piece:
                raise Unreadable("tar stream was cut short")
            data += piece
        return bytes(data)

    def read(self, limit: int) -> bytes:
        """Return at most LIMIT bytes of the present entry's content, b"" after its last."""
        want = min(limit, self._left, PIECE)
        if want <= 0:
            return b""
        piece = self._source(want)
        if not piece:
            raise Unreadable("tar stream was cut short")
        self._left -= len(piece)
        return piece

    def _skip(self) -> None:
        while self._left:
            self.read(PIECE)
        self._exactly(self._padding)
        self._padding = 0

    def next(self) -> Optional[Entry]:
        """Return the next entry, passing over what is left of the one before; None at the end. Raises Refused, Unreadable."""
        long_name: Optional[bytes] = None
        pax: Optional[dict[bytes, bytes]] = None
        while True:
            self._skip()
            self._entries += 1
            if self._entries > MAX_ENTRIES:
                raise Refused("tar stream of more than %d entries" % MAX_ENTRIES)
            header = self._exactly(BLOCK)
            if not any(header):
                if long_name is not None or pax is not None:
                    raise Refused("tar stream ends after an extension header")
                return None
            _checked(header)
            size, flag = _number(header[124:136]), header[156:157]
            if flag in (b"x", b"L", b"K"):
                if size > MAX_EXTENSION_BYTES or (pax is not None if flag == b"x" else long_name is not None and flag == b"L"):
                    raise Refused("tar extension header too large, or a second one")
                data = self._exactly(size)
                self._exactly(-size % BLOCK)
                if flag == b"x":
                    pax = parse_pax(data)
                elif flag == b"L":
                    long_name = data.rstrip(b"\0")
                continue
            return self._entry(header, size, flag, long_name, pax or {})

    def _entry(self, header: bytes, size: int, flag: bytes, long_name: Optional[bytes], pax: dict[bytes, bytes]) -> Entry:
        if long_name is not None and b"path" in pax:
            raise Refused("tar entry with two long names")
        name = pax.get(b"path", long_name)
        if name is None:
            name = header[:100].split(b"\0")[0]
            prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
            name = prefix + b"/" + name if prefix else name
        if b"size" in pax:
            if not pax[b"size"].isdigit() or len(pax[b"size"]) > 18:
                raise Refused("tar entry with a bad size")
            size = int(pax[b"size"])
        if flag in _FILE:
            kind = "file"
        elif flag == _DIR:
            kind, size = "dir", 0
        elif flag in _OTHER:
            # A link's size field may be anything; no content follows it.
            kind, size = "other", size if flag == b"7" else 0
        else:
            raise Refused("tar entry of an unknown kind", where=shown(flag))
        self._left, self._padding = size, -size % BLOCK
        return Entry(_clean(name), kind, size, _time(header[136:148]))


def only_file(reader: TarReader, name: bytes, cap_bytes: int) -> Entry:
    """Return the stream's first entry, which must be the regular file NAME of at most CAP_BYTES. Raises Refused, Unreadable."""
    entry = reader.next()
    if entry is None:
        raise Unreadable("tar stream without an entry", where=shown(name))
    if entry.name != name:
        raise Refused("tar entry of another name", where=shown(name), cause=shown(entry.name))
    if entry.kind != "file":
        raise Refused("not a regular file", where=shown(name))
    if entry.size > cap_bytes:
        raise Refused("larger than %d bytes" % cap_bytes, where=shown(name))
    return entry
