# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""A root that is not mounted here: what lies in it is told by its keeper, a file's bytes come as a tar stream.

To layout and sync it looks like a HeldDir. What is known of it is one Tree, replaced whole by
``look()``, so reading goes on beside a look in another thread; a file's content is spooled, one file
at a time, into memory or an unlinked file that only its descriptor leads to.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Callable, Iterable, Iterator, Mapping, Optional

from ..dockerapi import EngineError
from ..errors import Refused, Unreadable, shown
from .opener import MAX_ENTRIES, HeldDir
from .tar import PIECE, TarReader, only_file

# Other sandboxes wait meanwhile (contract R18).
FETCH_S = 5.0
MAX_FILE_BYTES = 256 << 20
# Above this a file goes to disk instead of memory.
MAX_MEMORY_BYTES = 16 << 20

_MODES = {"file": stat.S_IFREG, "dir": stat.S_IFDIR}


@dataclass(frozen=True)
class Seen:
    """One path as its keeper described it. ``kind`` other: a link, device, FIFO or socket."""

    kind: str  # file | dir | other
    size: int = 0
    mtime_ns: int = 0

    def as_stat(self) -> os.stat_result:
        """As lstat would say; st_ino is 0, for nobody told the inode number."""
        seconds = self.mtime_ns // 10**9
        mode = _MODES.get(self.kind, stat.S_IFLNK)
        stamps = {"st_mtime": self.mtime_ns / 1e9, "st_mtime_ns": self.mtime_ns, "st_ctime_ns": 0}
        return os.stat_result((mode, 0, 0, 1, 0, 0, self.size, seconds, seconds, 0), stamps)


@dataclass(frozen=True)
class Tree:
    """All that is known below a root, by path; ``marks`` tells one listing of a directory from the next."""

    seen: Mapping[bytes, Seen] = field(default_factory=dict)
    marks: Mapping[bytes, int] = field(default_factory=dict)
    cut: frozenset[bytes] = frozenset()  # directories that hold more than was listed
    children: Mapping[bytes, tuple[bytes, ...]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        children: dict[bytes, list[bytes]] = {}
        for path in self.seen:
            parent, _slash, name = path.rpartition(b"/")
            children.setdefault(parent, []).append(name)
        object.__setattr__(self, "children", {parent: tuple(sorted(names)) for parent, names in children.items()})


class SpooledDir(HeldDir):
    """A directory of a spooled root; nothing of it is held, so close() has nothing to do."""

    def __init__(self, root: SpooledRoot, path: bytes, tree: Tree, label: str) -> None:
        # No super().__init__(): there is no descriptor.
        self.fd = -1
        self.label = label
        self._root = root
        self._path = path
        self._tree = tree

    def close(self) -> None:
        pass

    def keep(self, paths: Iterable[bytes]) -> None:
        pass

    def _join(self, path: bytes) -> bytes:
        parts = [part for part in (self._path + b"/" + path).split(b"/") if part not in (b"", b".")]
        if b".." in parts or b"\0" in path:
            raise Refused("path with .. or NUL refused", where=shown(path))
        return b"/".join(parts)

    def _find(self, path: bytes, kind: str) -> tuple[bytes, Seen]:
        whole = self._join(path)
        seen = self._tree.seen.get(whole) if whole else Seen("dir")
        if seen is None:
            raise FileNotFoundError(2, "not there", shown(path))
        if seen.kind != kind:
            raise Refused("not a directory" if kind == "dir" else "not a regular file", where=shown(path))
        return whole, seen

    def open_dir(self, path: bytes) -> HeldDir:
        whole, _seen = self._find(path, "dir")
        return SpooledDir(self._root, whole, self._tree, self._root.label + "/" + shown(whole))

    def open_file(self, path: bytes) -> int:
        whole, seen = self._find(path, "file")
        return self._root.spool(whole, seen)

    def fstat(self, fd: int) -> os.stat_result:
        spooled = os.fstat(fd)
        return Seen("file", spooled.st_size, spooled.st_mtime_ns).as_stat()

    def listing_mark(self) -> tuple[int, int]:
        seen = self._tree.seen.get(self._path)
        return (self._tree.marks.get(self._path, 0), seen.mtime_ns if seen is not None else 0)

    def stat(self, name: bytes) -> Optional[os.stat_result]:
        seen = self._tree.seen.get(self._join(name))
        return None if seen is None else seen.as_stat()

    def names(self, limit: int = MAX_ENTRIES) -> tuple[list[bytes], bool]:
        found = self._tree.children.get(self._path, ())
        return list(found[:limit]), len(found) > limit or self._path in self._tree.cut

    def read_small(self, path: bytes, limit: int) -> tuple[bytes, os.stat_result]:
        whole, seen = self._find(path, "file")
        return self._root.read_head(whole, limit), seen.as_stat()


class SpooledRoot(SpooledDir, ABC):
    """What its keepers (ArchiveRoot, ExecRoot) share: the tree that was last seen, and spooling."""

    def __init__(self, label: str, spool_dir: Optional[str]) -> None:
        super().__init__(self, b"", Tree(), label)
        self.trouble: Optional[str] = None  # why the last look failed; nothing is asked for until one succeeds
        self._spool_dir = spool_dir
        self._lock = threading.Lock()
        self._last: Optional[tuple[bytes, Seen, int]] = None
        self._closed = False

    # -- what a keeper provides ------------------------------------------------

    @abstractmethod
    def look(self, *, at_once: bool = False) -> None:
        """Find out what is there now, when it is time to. Raises Unreadable."""

    @abstractmethod
    def tar(self, path: bytes, timeout_s: float) -> AbstractContextManager[Callable[[int], bytes]]:
        """Ask for the tar stream of PATH, whose first entry is named as PATH's last part; it has TIMEOUT_S in all."""

    # -- what layout and sync see ------------------------------------------------

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._forget()

    def open_dir(self, path: bytes) -> HeldDir:
        # One view of the tree for as long as the caller keeps the directory.
        return SpooledDir(self, b"", self._tree, self.label).open_dir(path)

    def publish(self, tree: Tree) -> None:
        """Make TREE what is seen from now on; a spooled file that has changed since is let go."""
        with self._lock:
            self._tree = tree
            if self._last is not None and tree.seen.get(self._last[0]) != self._last[1]:
                self._forget()

    def _forget(self) -> None:
        if self._last is not None:
            os.close(self._last[2])
            self._last = None

    def spool(self, path: bytes, seen: Seen) -> int:
        """Return a descriptor of PATH's content with the time SEEN had; the caller closes it. Raises Refused, Unreadable."""
        if seen.size > MAX_FILE_BYTES:
            raise Refused("larger than %d bytes, which this route does not fetch" % MAX_FILE_BYTES, where=shown(path))
        with self._lock:
            # A large file is read in many turns; it is fetched once.
            if self._last is not None and self._last[:2] == (path, seen):
                return os.dup(self._last[2])
            self._forget()
            self._ready()
            fd = self._fetch(path, seen)
            if self._closed:
                return fd
            self._last = (path, seen, fd)
            return os.dup(fd)

    def _ready(self) -> None:
        if self.trouble is not None:
            raise Unreadable("not asked for now", where=self.label, cause=self.trouble)

    @contextlib.contextmanager
    def _fetched(self, path: bytes) -> Iterator[Callable[[int], bytes]]:
        """Fetch in the reader's own thread: whoever is slow is not asked again before a look has gone well."""
        try:
            with self.tar(path, FETCH_S) as read:
                yield read
        except EngineError as exc:
            if exc.kind == "hangs":
                self.trouble = exc.what
            raise

    def _fetch(self, path: bytes, seen: Seen) -> int:
        fd = -1
        try:
            with self._fetched(path) as read:
                reader = TarReader(read)
                entry = only_file(reader, path.rpartition(b"/")[2], MAX_FILE_BYTES)
                fd = self._new(entry.size)
                while True:
                    piece = reader.read(PIECE)
                    if not piece:
                        break
                    _write(fd, piece)
                if reader.next() is not None:
                    raise Refused("tar stream with a second entry", where=shown(path))
            os.utime(fd, ns=(seen.mtime_ns, seen.mtime_ns))
            return fd
        except BaseException:
            if fd >= 0:
                os.close(fd)
            raise

    def _spooled(self, content: bytes, seen: Seen) -> int:
        """Return a descriptor of CONTENT with the time SEEN has."""
        fd = self._new(len(content))
        try:
            _write(fd, content)
            os.utime(fd, ns=(seen.mtime_ns, seen.mtime_ns))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _new(self, size: int) -> int:
        try:
            if size <= MAX_MEMORY_BYTES and hasattr(os, "memfd_create"):
                return os.memfd_create("spool", os.MFD_CLOEXEC)
            with tempfile.TemporaryFile(dir=self._spool_dir, buffering=0) as unnamed:
                return os.dup(unnamed.fileno())
        except OSError as exc:
            raise Unreadable("nowhere to spool a file", cause=os.strerror(exc.errno or 0)) from exc

    def read_head(self, path: bytes, limit: int) -> bytes:
        """Return at most the first LIMIT bytes of the regular file at PATH. Raises Refused, Unreadable."""
        self._ready()
        with self._fetched(path) as read:
            reader = TarReader(read)
            only_file(reader, path.rpartition(b"/")[2], 1 << 40)
            data = bytearray()
            while len(data) < limit:
                piece = reader.read(limit - len(data))
                if not piece:
                    break
                data += piece
        return bytes(data)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except OSError as exc:
            raise Unreadable("cannot spool a file", cause=os.strerror(exc.errno or 0)) from exc


class Due:
    """When to look again: at most every INTERVAL_S, and not while that has not passed since a failure either."""

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.interval_s = interval_s
        self._clock = clock
        self._at = -1e12

    def now(self) -> bool:
        if self._clock() - self._at < self.interval_s:
            return False
        self._at = self._clock()
        return True
