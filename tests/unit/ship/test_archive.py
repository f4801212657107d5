# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The local archive: ciphertext, stored once, read in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from clawmetry_sync import wire
from clawmetry_sync.errors import ConfigError, StateError
from clawmetry_sync.seal import Sealer
from clawmetry_sync.ship import Verdict
from clawmetry_sync.ship.archive import Archive, foreign_envelopes


def test_storing_twice_is_storing_once(tmp_path: Path) -> None:
    archive = Archive(str(tmp_path / "archive"))
    for key in ("a", "b", "a"):
        assert archive.deliver(wire.EVENTS, "n", key, b"envelope of " + key.encode()).verdict is Verdict.ACK
    assert archive.deliver(wire.MEMORY, "n", "m", b"memory").verdict is Verdict.ACK
    archive.close()
    archive = Archive(str(tmp_path / "archive"), create=False)
    assert [(stored.key, stored.payload) for stored in archive.envelopes(wire.EVENTS)] == [("a", b"envelope of a"), ("b", b"envelope of b")]
    assert [(row[0], row[1]) for row in archive.summary()] == [(wire.EVENTS, 2), (wire.MEMORY, 1)]
    archive.mark_pushed(next(archive.envelopes()))
    assert [stored.key for stored in archive.envelopes(unpushed=True)] == ["b", "m"]
    archive.close()


def test_archive_is_private_and_holds_no_plaintext(tmp_path: Path) -> None:
    archive = Archive(str(tmp_path / "archive"))
    archive.deliver(wire.EVENTS, "n", "a", Sealer(bytes(32)).seal(b'{"events":[{"canary":"7c1e"}]}'))
    for path in [tmp_path / "archive", *(tmp_path / "archive").iterdir()]:
        assert path.stat().st_mode & 0o077 == 0
        assert path.is_dir() or b"7c1e" not in path.read_bytes()
    archive.close()


def test_more_than_one_page_of_envelopes_in_order(tmp_path: Path) -> None:
    archive = Archive(str(tmp_path / "archive"))
    for number in range(40):
        archive.deliver(wire.EVENTS, "n", "k%d" % number, b"x")
    assert [stored.key for stored in archive.envelopes()] == ["k%d" % number for number in range(40)]
    archive.close()


def test_nothing_is_made_by_looking(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no archive"):
        Archive(str(tmp_path / "archive"), create=False)
    assert not (tmp_path / "archive").exists()


def test_newer_and_damaged_archives_are_refused(tmp_path: Path) -> None:
    archive = Archive(str(tmp_path / "archive"))
    archive._db.execute("PRAGMA user_version=99")
    archive.close()
    with pytest.raises(StateError, match="newer"):
        Archive(str(tmp_path / "archive"))
    (tmp_path / "archive/archive.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(StateError, match="cannot be used"):
        Archive(str(tmp_path / "archive"))


def test_reading_makes_nothing_and_takes_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    archive = Archive(str(tmp_path / "archive"))
    archive.deliver(wire.EVENTS, "n", "a", b"x")
    seen = Archive(str(tmp_path / "archive"), create=False, read_only=True)
    assert [stored.key for stored in seen.envelopes()] == ["a"]  # while it is being written
    seen.close()
    archive.close()
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "archive").iterdir())
    seen = Archive(str(tmp_path / "archive"), create=False, read_only=True)
    assert [stored.key for stored in seen.envelopes()] == ["a"] and seen.summary()[0][1] == 1
    seen.close()
    assert sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "archive").iterdir()) == before


def test_damage_further_on_is_told_when_it_is_met(tmp_path: Path) -> None:
    archive = Archive(str(tmp_path / "archive"))
    for number in range(40):
        archive.deliver(wire.EVENTS, "n", "k%d" % number, b"x" * 5000)
    archive.close()
    path = tmp_path / "archive/archive.db"
    data = bytearray(path.read_bytes())
    data[32768:] = b"\xff" * (len(data) - 32768)
    path.write_bytes(data)
    archive = Archive(str(tmp_path / "archive"), create=False, read_only=True)
    with pytest.raises(StateError, match="cannot be used") as caught:
        list(archive.envelopes())
    assert caught.value.next_step
    archive.close()


def test_full_disk_is_retried(tmp_path: Path) -> None:
    archive = Archive(str(tmp_path / "archive"))
    archive._db.execute("PRAGMA max_page_count=8")
    outcome = archive.deliver(wire.EVENTS, "n", "a", b"x" * 200_000)
    assert outcome.verdict is Verdict.RETRY and "full" in outcome.reason
    archive.close()


def test_archive_tells_of_another_key(tmp_path: Path) -> None:
    directory = str(tmp_path / "archive")
    first, second = Sealer(bytes(32)), Sealer(b"k" * 32)
    assert foreign_envelopes(directory, first.open) is None and not (tmp_path / "archive").exists()
    archive = Archive(directory)
    assert foreign_envelopes(directory, first.open) is None
    archive.deliver(wire.EVENTS, "n", "a", first.seal(b"{}"))
    assert foreign_envelopes(directory, first.open) is None
    assert str(foreign_envelopes(directory, second.open)).startswith("all of ")
    archive.deliver(wire.EVENTS, "n", "b", second.seal(b"{}"))
    assert str(foreign_envelopes(directory, second.open)).startswith("part of ")
    archive.close()
