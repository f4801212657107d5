# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Something on the host that nobody may ever see again, and the search for it everywhere we write."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from support.decoder import decode_key
from support.ingest import KEY_TEXT, Ingest


class Canary:
    """A file of root alone, of which every line would be taken for an event if it were read."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.text = "canary-" + secrets.token_hex(16)
        self.path = directory / "canary.jsonl"
        self.path.touch(mode=0o600)
        self.path.write_text('{"type":"message","id":"c","message":{"role":"user","content":"%s"}}\n' % self.text * 3)

    @property
    def needle(self) -> bytes:
        return self.text.encode()

    def watch(self, ingest: Ingest) -> None:
        """From now on a request that holds the canary, sealed or not, is a violation."""
        ingest.canaries.append(self.needle)

    def is_nowhere(self, *places: Path, key: str = KEY_TEXT) -> None:
        """Look at every byte below PLACES, and into every envelope that is kept there. Raises AssertionError."""
        for name, data in everything(places, key):
            if self.needle in data:
                raise AssertionError("the canary is in %s" % name)

    def is_not_in(self, *texts: object) -> None:
        for text in texts:
            if self.text in (text if isinstance(text, str) else text.decode("utf-8", "replace") if isinstance(text, bytes) else repr(text)):
                raise AssertionError("the canary is in an output")


def everything(places: tuple[Path, ...], key: str = KEY_TEXT) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of each file below PLACES and of each envelope in a database there, opened."""
    files = [
        file for place in places for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file() and not file.is_symlink()
    ]
    for file in files:
        data = file.read_bytes()
        yield str(file), data
        if data.startswith(b"SQLite format 3\0"):
            yield from opened(file, key)


def opened(database: Path, key: str = KEY_TEXT) -> Iterator[tuple[str, bytes]]:
    """Yield every value of every table, envelopes opened."""
    import gzip

    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher = AESGCM(decode_key(key))
    with sqlite3.connect("file:%s?mode=ro" % database, uri=True) as connection:
        connection.text_factory = bytes
        tables = [row[0].decode() for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        for table in tables:
            for row in connection.execute('SELECT * FROM "%s"' % table):
                for value in row:
                    if not isinstance(value, bytes):
                        continue
                    yield "%s of %s" % (table, database), value
                    try:
                        plain = cipher.decrypt(value[:12], value[12:], None)
                    except (InvalidTag, ValueError):
                        continue
                    yield "an envelope in %s of %s" % (table, database), gzip.decompress(plain) if plain[:2] == b"\x1f\x8b" else plain
    connection.close()


def modes(place: Path) -> dict[str, int]:
    """Return the permission bits of PLACE and everything below it."""
    return {str(file): os.lstat(file).st_mode & 0o7777 for file in [place, *place.rglob("*")]}
