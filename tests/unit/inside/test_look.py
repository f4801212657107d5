# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a sandbox's Python may answer, and whose hands are on the way to a file of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawmetry_sync.errors import Unreadable
from clawmetry_sync.inside import look
from clawmetry_sync.read.opener import HeldDir

ANSWER = [[3, 11, 2], "x86_64", "glibc 2.36", "/usr/lib/python3.11"]


def told(answer: Any) -> Any:
    return look.parse_answer(b"usr/bin/python3.11", json.dumps(answer).encode())


def test_an_answer_is_the_python_and_its_tag() -> None:
    python = told(ANSWER)
    assert python == look.Python(b"usr/bin/python3.11", (3, 11, 2), "x86_64", (2, 36), b"usr/lib/python3.11")
    assert python.tag == "3.11-x86_64-2.36"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ((0, [3, 8, 10]), "needs 3.9 or newer"),
        ((0, [3, 11]), "makes no sense"),
        ((0, None), "does not run"),
        ((2, None), "does not use glibc"),
        ((2, "musl 1.2"), "does not use glibc"),
        ((1, "x86_64; rm -rf /"), "tells no machine"),
        ((3, "usr/lib"), "makes no sense"),
    ],
)
def test_an_answer_that_will_not_do_says_why(changed: tuple[int, Any], why: str) -> None:
    answer = list(ANSWER)
    answer[changed[0]] = changed[1]
    assert why in told(answer)


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists))
def test_any_answer_is_survived(value: Any) -> None:
    answer = value if isinstance(value, bytes) else json.dumps(value).encode()
    assert isinstance(look.parse_answer(b"usr/bin/python3", answer), (str, look.Python))


@pytest.fixture
def root(tmp_path: Path) -> HeldDir:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/python3.11").write_bytes(b"program")
    (tmp_path / "sandbox").mkdir()
    for place in (tmp_path, *tmp_path.rglob("*")):
        place.chmod(0o755)
    return HeldDir.hold(os.fsencode(tmp_path))


def test_links_are_walked_within_the_root(root: HeldDir, tmp_path: Path) -> None:
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "usr/bin/python3").symlink_to("/bin/../bin/python3.11")
    real, way = look.resolve(root, b"bin/python3")
    assert real == b"usr/bin/python3.11"
    assert [path for path, _seen in way] == [
        *(b"", b"bin", b"usr", b"usr/bin", b"usr/bin/python3"),
        *(b"bin", b"usr", b"usr/bin", b"usr/bin", b"usr/bin/python3.11"),
    ]
    (tmp_path / "usr/bin/out").symlink_to("../../../../../../etc/passwd")
    with pytest.raises(FileNotFoundError):
        look.resolve(root, b"usr/bin/out")
    (tmp_path / "usr/bin/loop").symlink_to("loop")
    with pytest.raises(Unreadable, match="too many links"):
        look.resolve(root, b"usr/bin/loop")


@pytest.mark.root
def test_whoever_else_may_write_on_the_way_is_named(root: HeldDir, tmp_path: Path) -> None:
    python = b"usr/bin/python3.11"
    assert look.unprotected(root, python) == ""
    (tmp_path / "usr").chmod(0o775)
    assert look.unprotected(root, python) == "/usr can be written by others (mode 0775)"
    (tmp_path / "usr").chmod(0o755)
    os.chown(tmp_path / "usr/bin/python3.11", 998, 998)
    assert look.unprotected(root, python) == "/usr/bin/python3.11 belongs to uid 998"
    # A link of root's to where the agent writes, and back to root's.
    (tmp_path / "sandbox/python3").symlink_to("/usr/bin/python3.11")
    (tmp_path / "usr/bin/python3").symlink_to("/sandbox/python3")
    os.chown(tmp_path / "usr/bin/python3.11", 0, 0)
    os.chown(tmp_path / "sandbox", 998, 998)
    assert look.unprotected(root, b"usr/bin/python3") == "/sandbox belongs to uid 998"


@pytest.mark.parametrize("library", ["usr/lib", "/a\0b", "/\ud800", "/a\nb", "", None, 7])
def test_a_python_that_lies_about_its_library_is_not_believed(library: object) -> None:
    answer = json.dumps([[3, 11, 2], "x86_64", "glibc 2.36", library]).encode()
    assert look.parse_answer(b"usr/bin/python3", answer) == "/usr/bin/python3 gave an answer that makes no sense"
