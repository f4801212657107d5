# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whose homes are looked into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawmetry_sync.discover.accounts import below, parse_passwd, read_accounts

PASSWD = """root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
claw:x:990:990::/var/lib/claw:/usr/sbin/nologin
alice:x:1000:1000:Alice:/home/alice:/bin/bash
bob:x:1001:1001:Bob:/home/bob/:/bin/bash
gone:x:1002:1002::/home/gone:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
broken line
evil:x:notanumber:1::/home/evil:/bin/sh
rel:x:1003:1003::home/rel:/bin/sh
slash:x:2:2::/:/bin/sh
"""


@pytest.fixture
def host(tmp_path: Path) -> Path:
    for home in ("root", "home/alice", "home/bob", "var/lib/claw", "etc", "proc/self"):
        (tmp_path / home).mkdir(parents=True)
    (tmp_path / "etc/passwd").write_text(PASSWD)
    return tmp_path


def homes(host: Path, euid: int, wanted: Any = "auto", **env: str) -> list[tuple[Any, str]]:
    return [(item.name, item.home) for item in read_accounts(root=str(host), homes=wanted, env=env, euid=euid).known]


def test_root_looks_into_every_home_that_exists(host: Path) -> None:
    assert homes(host, 0) == [("root", "/root"), ("claw", "/var/lib/claw"), ("alice", "/home/alice"), ("bob", "/home/bob")]


def test_plain_user_looks_into_the_own_home_only_and_says_it_is_not_all(host: Path) -> None:
    (host / "proc/self/status").write_text("Name:\tx\nCapEff:\t0000000000000000\n")
    accounts = read_accounts(root=str(host), homes="auto", env={}, euid=1000)
    assert [item.name for item in accounts.known] == ["alice"] and not accounts.complete


def test_service_user_with_the_capability_looks_into_every_home(host: Path) -> None:
    (host / "proc/self/status").write_text("Name:\tx\nCapEff:\t0000000000080004\n")
    assert len(homes(host, 990)) == 4


def test_user_of_a_directory_service_has_the_home_of_the_environment(host: Path) -> None:
    assert homes(host, 5555, HOME="/home/bob", USER="ldap") == [("ldap", "/home/bob")]


def test_listed_homes_are_taken_as_given(host: Path) -> None:
    assert homes(host, 0, ["/home/bob", "relative", "/home/none", "/home/bob"]) == [("bob", "/home/bob")]


def test_home_that_is_a_link_is_left_out(host: Path) -> None:
    (host / "home/gone").symlink_to("alice")
    assert ("gone", "/home/gone") not in homes(host, 0)


def test_host_without_passwd_has_no_homes_and_says_unknown(tmp_path: Path) -> None:
    accounts = read_accounts(root=str(tmp_path), homes="auto", env={}, euid=0)
    assert accounts.known == () and not accounts.complete


def test_root_prefix() -> None:
    assert below("/", "/etc/x") == "/etc/x" and below("", "/etc/x") == "/etc/x" and below("/r/", "/etc/x") == "/r/etc/x"


@given(st.binary(max_size=300))
def test_any_passwd_is_parsed(data: bytes) -> None:
    for _name, uid, home in parse_passwd(data + b"\nroot:x:0:0::/root:/bin/sh\n"):
        assert uid >= 0 and home.startswith("/")
