# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""A directory in a sandbox as it is to be: compared file by file, written, removed.

Everything happens below a held root and by descriptor, without following a link, with this process's own code: no
program of the sandbox has a part in it. Whatever is mounted in there is somebody else's, the host's perhaps: nothing is
written or removed then. A file is made under another name, given its owner and mode, and renamed;
what a crash leaves half done, the next comparison finds.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Callable, Mapping, Optional

from ..errors import Unreadable, shown
from ..read.opener import HeldDir

# Generous for an environment of a few packages; what is beyond it is not ours.
MAX_ENTRIES = 20_000
MAX_DEPTH = 60
_NEW = b".clawmetry-new"


@dataclass(frozen=True)
class Entry:
    """A file (``data`` gives its bytes) or a directory, with owner and mode."""

    mode: int
    uid: int = 0
    gid: int = 0
    data: Optional[Callable[[], bytes]] = None

    @property
    def is_directory(self) -> bool:
        return self.data is None


Tree = Mapping[bytes, Entry]  # path relative to the place -> entry


def differences(place: Optional[HeldDir], wanted: Tree, *, leave: frozenset[bytes] = frozenset()) -> tuple[list[bytes], list[bytes]]:
    """Return the paths that are not as WANTED, parents first, and those that should not be there, children first.

    What is below a directory in LEAVE is not looked at. PLACE is None when there is nothing yet.
    """
    if place is None:
        return sorted(wanted), []
    there = dict(_walk(place, b"", leave))
    wrong = [path for path in sorted(wanted) if not _is_as(place, path, there.get(path), wanted[path])]
    return wrong, sorted((path for path in there if path not in wanted), reverse=True)


def _walk(place: HeldDir, path: bytes, leave: frozenset[bytes]) -> list[tuple[bytes, os.stat_result]]:
    found: list[tuple[bytes, os.stat_result]] = []
    waiting = [path]
    while waiting:
        path = waiting.pop()
        with place.open_dir(path or b".") as directory:
            _no_mount(place, directory)
            found.append((path, os.fstat(directory.fd)))
            names, more = directory.names(MAX_ENTRIES)
            if more or len(found) > MAX_ENTRIES:
                raise Unreadable("more than %d files" % MAX_ENTRIES, where=directory.label)
            for name in names if path not in leave else ():
                seen = directory.stat(name)
                below = path + b"/" + name if path else name
                if seen is not None and stat.S_ISDIR(seen.st_mode):
                    waiting.append(below)
                elif seen is not None:
                    found.append((below, seen))
    return found


def _is_as(place: HeldDir, path: bytes, seen: Optional[os.stat_result], entry: Entry) -> bool:
    if seen is None or (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) != (entry.uid, entry.gid, entry.mode):
        return False
    if entry.data is None:
        return stat.S_ISDIR(seen.st_mode)
    if not stat.S_ISREG(seen.st_mode) or seen.st_nlink > 1:
        return False
    data = entry.data()
    return seen.st_size == len(data) and place.read_small(path, len(data) + 1)[0] == data


def write(parent: HeldDir, name: bytes, wanted: Tree, paths: list[bytes], extra: list[bytes]) -> None:
    """Make PATHS of the directory NAME in PARENT be as WANTED, and EXTRA be gone. Raises OSError, Unreadable."""
    if parent.stat(name) is None:
        os.mkdir(name, 0o700, dir_fd=parent.fd)
    with parent.open_dir(name) as place:
        _no_mount(parent, place)
        for path in extra:
            with place.open_dir(_parent(path)) as directory:
                _remove(directory, path.rpartition(b"/")[2])
        for path in paths:
            entry = wanted[path]
            if not path:
                _own(place.fd, entry)
                continue
            with place.open_dir(_parent(path)) as directory:
                _make(directory, path.rpartition(b"/")[2], entry)


def remove(parent: HeldDir, name: bytes) -> None:
    """Remove NAME in PARENT and all below it; nothing when it is not there. Raises OSError, Unreadable."""
    _remove(parent, name)


def _parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0] or b"."


def _no_mount(outer: HeldDir, inner: HeldDir) -> None:
    if os.fstat(outer.fd).st_dev != os.fstat(inner.fd).st_dev:
        raise Unreadable("another file system is mounted there", where=inner.label, next_step="unmount it, or choose another sandbox")


def _own(fd: int, entry: Entry) -> None:
    os.fchown(fd, entry.uid, entry.gid)
    os.fchmod(fd, entry.mode)


def _make(directory: HeldDir, name: bytes, entry: Entry) -> None:
    seen = directory.stat(name)
    if seen is not None and stat.S_ISDIR(seen.st_mode) != entry.is_directory:
        _remove(directory, name)
        seen = None
    if entry.data is None:
        if seen is None:
            os.mkdir(name, 0o700, dir_fd=directory.fd)
        with directory.open_dir(name) as made:
            _own(made.fd, entry)
        return
    _remove(directory, _NEW)
    fd = os.open(_NEW, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory.fd)
    with open(fd, "wb") as stream:
        stream.write(entry.data())
        stream.flush()
        _own(fd, entry)
    os.rename(_NEW, name, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)


def _remove(directory: HeldDir, name: bytes, depth: int = 0) -> None:
    seen = directory.stat(name)
    if seen is None:
        return
    if not stat.S_ISDIR(seen.st_mode):
        os.unlink(name, dir_fd=directory.fd)
        return
    with directory.open_dir(name) as inner:
        _no_mount(directory, inner)
        names, more = inner.names(MAX_ENTRIES)
        if more or depth > MAX_DEPTH:
            raise Unreadable("more than %d files, or %d directories deep" % (MAX_ENTRIES, MAX_DEPTH), where=shown(name))
        for below in names:
            _remove(inner, below, depth + 1)
    os.rmdir(name, dir_fd=directory.fd)
