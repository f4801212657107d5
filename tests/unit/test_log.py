# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""S14: a log line is one line of printable ASCII, whatever a sandbox calls itself."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clawmetry_sync.errors import ClawmetryError, shown
from clawmetry_sync.log import LEVELS, Log

HOSTILE = [
    "$(id)",
    "`id`",
    "a\nlevel=error event=forged",
    "\x1b[31mred",
    "%s%n%d",
    "\u202eevil",
    "\x00",
    "x" * 65536,
    "\ud800",
    '"; rm -rf',
    b"\xff\xfe",
    b"\x1b]0;x\x07",
]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value)[:20])
def test_a_hostile_value_stays_in_its_field(value: object, capsys: pytest.CaptureFixture[str]) -> None:
    Log("debug")("info", "sandbox", name=value, after="here")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and err.endswith(" after=here\n")
    assert err.isascii() and err[:-1].isprintable()
    assert len(err) < 700
    assert " event=forged" not in err.replace('name="', "").split('"')[0] or 'name="' in err


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(st.characters()), st.binary(), st.integers(), st.none()))
def test_any_value_makes_one_line(capsys: pytest.CaptureFixture[str], value: object) -> None:
    Log("debug")("info", "event", value=value)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.isascii() and err[:-1].isprintable()


def test_levels(capsys: pytest.CaptureFixture[str]) -> None:
    for number, least in enumerate(LEVELS):
        log = Log(least)
        for level in LEVELS:
            log(level, "x")
        assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == ["level=" + level for level in LEVELS[number:]]


def test_a_state_is_said_once_and_its_end_once(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log("debug")
    for text in (None, "full", "full", "full", "other", None, None):
        log.state("disk", text)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert "reason=full" in said[0] and "reason=other" in said[1] and "event=recovered" in said[2]


def test_a_stamp_is_utc(capsys: pytest.CaptureFixture[str]) -> None:
    Log("info", stamp=True)("info", "x")
    stamp = capsys.readouterr().err.split()[0]
    assert len(stamp) == 20 and stamp.endswith("Z")


@given(st.one_of(st.text(st.characters()), st.binary()), st.integers(4, 300))
def test_shown_is_printable_ascii_within_its_limit(value: object, limit: int) -> None:
    text = shown(value, limit)
    assert text.isascii() and (text.isprintable() or not text)
    assert len(text) <= limit


def test_an_error_says_what_where_why_and_what_next() -> None:
    assert str(ClawmetryError("no key", where="/etc/k", cause="gone", next_step="make one")) == "no key (/etc/k): gone. Next: make one"
    assert str(ClawmetryError("no key")) == "no key"
