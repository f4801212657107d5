# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Whose homes we may look into: the host's passwd file, or a list the operator gave.

Reads one file and directory modes; the root prefix makes every path testable on a made-up host.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Iterator, Mapping, Optional, Sequence, Union

MAX_PASSWD = 4 * 1024 * 1024
MAX_ACCOUNTS = 5000
CAP_DAC_READ_SEARCH = 2  # linux/capability.h

# System accounts point at these; nobody's agent lives there, and some are kernel interfaces.
_NOT_HOMES = ("/", "/bin", "/sbin", "/usr", "/dev", "/proc", "/sys", "/run", "/var/run", "/nonexistent", "/tmp")

_Wanted = tuple[Optional[str], Optional[int], str]  # name, uid, home


@dataclass(frozen=True)
class Account:
    """A home directory and its owner. ``home`` is the path as the host knows it, ``path`` with the root prefix."""

    name: Optional[str]
    uid: Optional[int]
    home: str
    path: str
    gid: Optional[int] = None  # primary group, None when passwd does not tell


@dataclass(frozen=True)
class Accounts:
    """The homes to look into; ``complete`` is False when others exist that we could not or may not look into."""

    known: tuple[Account, ...]
    complete: bool


def below(root: str, path: str) -> str:
    """Return PATH under the root prefix: below("/", "/etc") is "/etc", below("/tmp/h", "/etc") is "/tmp/h/etc"."""
    return path if root in ("", "/") else root.rstrip("/") + "/" + path.lstrip("/")


def parse_passwd(data: bytes) -> list[tuple[str, int, str]]:
    """Return (name, uid, home) of each well-formed line of a passwd(5) file; the rest is skipped."""
    found = []
    for line in data.split(b"\n")[:MAX_ACCOUNTS]:
        parts = line.decode("utf-8", "surrogateescape").split(":")
        if len(parts) != 7 or not parts[0] or not parts[5].startswith("/") or "\0" in parts[5]:
            continue
        if parts[2].isascii() and parts[2].isdigit() and len(parts[2]) < 12:
            found.append((parts[0], int(parts[2]), os.path.normpath(parts[5])))
    return found


def parse_groups(data: bytes) -> dict[int, int]:
    """Return the primary group of each uid of a passwd(5) file; the first line of a uid wins."""
    found: dict[int, int] = {}
    for line in data.split(b"\n")[:MAX_ACCOUNTS]:
        parts = line.split(b":")
        if len(parts) == 7 and all(part.isdigit() and len(part) < 12 for part in parts[2:4]):
            found.setdefault(int(parts[2]), int(parts[3]))
    return found


def may_read_every_home(root: str, euid: int) -> bool:
    """Root, or a service user that was given CAP_DAC_READ_SEARCH (the daemon's unit does)."""
    if euid == 0:
        return True
    try:
        with open(below(root, "/proc/self/status"), "rb") as status:
            for line in status.read(65536).splitlines():
                if line.startswith(b"CapEff:"):
                    return bool(int(line.split()[1], 16) >> CAP_DAC_READ_SEARCH & 1)
    except (OSError, ValueError, IndexError):
        pass
    return False


def read_accounts(*, root: str, homes: Union[str, Sequence[str]], env: Mapping[str, str], euid: int) -> Accounts:
    """Return the homes that exist, in passwd order (root's first on most hosts), each once.

    ``homes`` is "auto" (every account when we may read them, else our own) or a list of paths.
    """
    listed = []
    groups: dict[int, int] = {}
    try:
        with open(below(root, "/etc/passwd"), "rb") as passwd:
            data = passwd.read(MAX_PASSWD)
        listed, groups = parse_passwd(data), parse_groups(data)
    except OSError:
        pass
    complete = bool(listed)
    wanted: list[_Wanted] = []
    if not isinstance(homes, str):
        owners = {home: (name, uid) for name, uid, home in reversed(listed)}
        by_uid = {uid: name for name, uid, _home in reversed(listed)}
        for home in homes:
            path = os.path.normpath(home)
            if os.path.isabs(path):
                name, uid = owners.get(path, (None, _owner(below(root, path))))
                wanted.append((name or by_uid.get(uid if uid is not None else -1), uid, path))
        # The operator said which homes count; nothing else is missing.
        complete = True
    elif may_read_every_home(root, euid):
        wanted = list(_likely(listed))
    else:
        wanted = [account for account in _likely(listed) if account[1] == euid][:1]
        if not wanted and os.path.isabs(env.get("HOME", "")):
            # An account of a directory service is not in the file.
            wanted = [(env.get("USER"), euid, os.path.normpath(env["HOME"]))]
        complete = complete and len({home for _n, uid, home in listed if uid == 0 or 1000 <= uid < 65534}) <= len(wanted)
    found: dict[str, Account] = {}
    for name, uid, home in wanted:
        path = below(root, home)
        kind = _kind(path)
        if home not in found and kind == "directory":
            found[home] = Account(name, uid, home, path, groups.get(uid) if uid is not None else None)
        elif kind == "other" and not isinstance(homes, str):
            complete = False  # asked for by name, there, and not to be looked into
    return Accounts(tuple(found.values()), complete)


def _likely(listed: Sequence[tuple[str, int, str]]) -> Iterator[_Wanted]:
    return ((name, uid, home) for name, uid, home in listed if home not in _NOT_HOMES)


def _kind(path: str) -> str:
    """Return what is at PATH: directory, nothing, or other (a link, a file, what we may not see)."""
    try:
        return "directory" if stat.S_ISDIR(os.lstat(path).st_mode) else "other"
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    except OSError:
        return "other"


def _owner(path: str) -> Optional[int]:
    try:
        return os.lstat(path).st_uid
    except OSError:
        return None
