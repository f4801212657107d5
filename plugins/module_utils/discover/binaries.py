# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Where a runtime's binary is, and what it says its version is; remembered for a minute.

Runs nothing but ``<binary> --version``, once an hour and file, and only a binary that nobody but root and ourselves can
have put there: a user's own file in ~/.local/bin would be that user's code run with our rights, so
root asks it as that user.
"""

from __future__ import annotations

import os
import re
import stat
import time
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Optional, Sequence, TypeVar

from .. import run
from ..errors import ClawmetryError
from .accounts import Account, below

RECHECK_S = 60.0
REASK_S = 3600.0
MAX_KEPT = 256  # keys may name pids, which change
VERSION_TIMEOUT_S = 5.0
VERSION_CAP = 64 * 1024
SYSTEM_DIRS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/snap/bin", "/opt/homebrew/bin")
_HOME_DIRS = (".local/bin", ".npm-global/bin")
_VERSION = re.compile(r"\bv?(\d{1,9}(?:\.\d{1,9}){1,3}(?:[-+.][0-9A-Za-z.-]{1,40})?)")
_MAX_NODE_VERSIONS = 50

T = TypeVar("T")
_Place = tuple[str, Optional[Account]]  # a path, and in whose home it lies


@dataclass(frozen=True)
class Binary:
    """An executable file: its path on the host, whose home it lies in, its version, and why that is not known."""

    path: str
    user: Optional[str] = None
    version: Optional[str] = None
    evidence: tuple[str, ...] = ()


def parse_version(output: bytes) -> Optional[str]:
    """Return the version in ``nemoclaw v0.1.0`` or ``openshell 0.0.111``, None when there is none."""
    match = _VERSION.search(output[:4096].decode("ascii", "replace"))
    return match.group(1) if match else None


def environment(account: Account, program: str, bin_dir: str) -> Mapping[str, str]:
    """Return what a CLI of ACCOUNT needs to find that account's configuration and, for a Node program, its Node."""
    found = {
        "HOME": account.path,
        "XDG_CONFIG_HOME": account.path + "/.config",
        "XDG_STATE_HOME": account.path + "/.local/state",
        "XDG_DATA_HOME": account.path + "/.local/share",
        "XDG_CACHE_HOME": account.path + "/.cache",
        "NO_COLOR": "1",
        "PATH": "%s:%s:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" % (bin_dir, os.path.dirname(program)),
    }
    if account.name is not None:
        found.update(USER=account.name, LOGNAME=account.name)
    return found


class Lookups:
    """Slow answers kept for RECHECK_S on the monotonic clock, so that a pass every few seconds stays cheap."""

    def __init__(self, *, root: str, runner: run.Runner, euid: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.root = root
        self._runner = runner
        self._euid = euid
        self._clock = clock
        self._kept: dict[str, tuple[float, Any]] = {}
        self._versions: dict[tuple[object, ...], tuple[float, tuple[Optional[str], tuple[str, ...]]]] = {}

    def kept(self, key: str, make: Callable[[], T]) -> T:
        """Return make(), or what it returned less than RECHECK_S ago under KEY."""
        now = self._clock()
        held = self._kept.get(key)
        if held is None or not 0 <= now - held[0] < RECHECK_S:
            held = (now, make())
            if len(self._kept) >= MAX_KEPT:
                self._kept = {name: one for name, one in self._kept.items() if now - one[0] < RECHECK_S}
            self._kept[key] = held
        answer: T = held[1]
        return answer

    def binary(self, name: str, accounts: Sequence[Account] = (), *, ask_version: bool = True) -> Optional[Binary]:
        """Return the first NAME in the system's directories, then in the homes' own; None when there is none."""
        return self.kept("binary " + name, lambda: self._first(self._places(name, accounts), ask_version))

    def _places(self, name: str, accounts: Sequence[Account]) -> list[_Place]:
        places: list[_Place] = [(directory + "/" + name, None) for directory in SYSTEM_DIRS]
        for account in accounts:
            places += [("%s/%s/%s" % (account.home, directory, name), account) for directory in _HOME_DIRS]
            places.extend((path + "/" + name, account) for path in self._node_dirs(account))
        return places

    def binary_for(self, name: str, account: Account) -> Optional[Binary]:
        """Return the NAME that ACCOUNT itself would run, the system's or its own; its version is not asked."""
        return self.kept("binary %s for %s" % (name, account.home), lambda: self._first(self._places(name, [account]), False))

    def beside(self, program: str, name: str, accounts: Sequence[Account]) -> Optional[Binary]:
        """Return the NAME in the directory of PROGRAM, where an installer puts what belongs to it; None when there is none."""
        path = os.path.join(os.path.dirname(program), name)
        owner = next((account for account in accounts if path.startswith(account.home + "/")), None)
        return self.kept("binary " + path, lambda: self._first([(path, owner)], True))

    def _first(self, places: Sequence[_Place], ask_version: bool) -> Optional[Binary]:
        for path, owner in places:
            real = below(self.root, path)
            try:
                seen = os.stat(real)
            except (OSError, ValueError):
                continue
            if stat.S_ISREG(seen.st_mode) and seen.st_mode & 0o111:
                version, why = self._version(real, owner) if ask_version else (None, ())
                return Binary(path, owner.name if owner else None, version, ("binary " + path,) + why)
        return None

    def _node_dirs(self, account: Account) -> list[str]:
        """The bin directories of Node versions installed with nvm: not on the PATH of a daemon."""
        base = account.home + "/.nvm/versions/node"
        try:
            names = sorted(os.listdir(below(self.root, base)), reverse=True)[:_MAX_NODE_VERSIONS]
        except OSError:
            return []
        return ["%s/%s/bin" % (base, name) for name in names]

    def _version(self, path: str, owner: Optional[Account]) -> tuple[Optional[str], tuple[str, ...]]:
        real = os.path.realpath(path)
        identity: dict[str, object] = {}
        if not self.trusted(path, self._euid):
            # NemoClaw is always some user's own: root may ask it as that user, and nobody else at all.
            if self._euid != 0 or owner is None or owner.uid is None or owner.gid is None or not self.trusted(path, owner.uid):
                return None, ("version not asked: the file is not owned by root or by us",)
            identity = {"user": owner.uid, "group": owner.gid, "env": environment(owner, real, os.path.dirname(path))}
        try:
            seen = os.stat(real)
        except OSError:
            return None, ("version unknown: the file is gone",)
        # A Node program takes up to a second of CPU to say its version: the same file is asked once.
        key = (real, seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
        # Not for ever: a shim stays what it is when the program behind it is upgraded.
        now = self._clock()
        held = self._versions.get(key)
        if held is None or held[1][0] is None or now - held[0] >= REASK_S:
            held = (now, self._ask_version(real, identity))
            self._versions[key] = held
        return held[1]

    def _ask_version(self, real: str, identity: Mapping[str, object]) -> tuple[Optional[str], tuple[str, ...]]:
        try:
            answer = self._runner([real, "--version"], timeout_s=VERSION_TIMEOUT_S, output_cap=VERSION_CAP, **identity)
        except ClawmetryError as exc:
            return None, ("version unknown: %s" % (exc.cause or exc.what),)
        version = parse_version(answer.stdout) if answer.rc == 0 else None
        return version, () if version else ("version unknown: --version ended with rc %d" % answer.rc,)

    def trusted(self, path: str, uid: int) -> bool:
        """May nobody but root and UID have written PATH, or what it links to, or swapped it in one of its directories?

        Both ends count: a link in a user's directory would let that user choose which of root's programs is started.
        """
        return self._unswappable(os.path.abspath(path), uid) and self._unswappable(os.path.realpath(path), uid)

    def _unswappable(self, path: str, uid: int) -> bool:
        while True:
            try:
                seen = os.lstat(path)
            except OSError:
                return False
            if seen.st_uid not in (0, uid):
                return False
            # A link's mode says nothing; a sticky directory (/tmp) lets others add files but not replace ours.
            if seen.st_mode & 0o002 and not (stat.S_ISLNK(seen.st_mode) or seen.st_mode & stat.S_ISVTX):
                return False
            parent = os.path.dirname(path)
            if parent == path:
                return True
            path = parent
