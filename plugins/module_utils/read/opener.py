# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The one door through which a sandbox's files are opened.

A directory is held by descriptor (a container's root, a home); everything below it is
resolved by the kernel without symlinks, magic links or leaving the held root, checked to
be a regular file before any data open, and read non-blocking and never past st_size.
Nothing is created, written, locked or executed. Recipe: openat2(2), design.md "Routes";
the component walk is the fallback for kernels before 5.6 and seccomp filters.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Iterable, Optional, Sequence

from .. import kernel
from ..errors import Refused, Unreadable, shown

_RESOLVE = kernel.RESOLVE_IN_ROOT | kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS
_DATA_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NOATIME = getattr(os, "O_NOATIME", 0)
# Another process renaming directories under us makes openat2 answer EAGAIN; a few tries, then the next pass.
_EAGAIN_TRIES = 16
MAX_ENTRIES = 100_000

Owners = Sequence[range]

# None until the first call has told whether openat2 works here.
_have_openat2: Optional[bool] = None


def _components(path: bytes) -> list[bytes]:
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts or b"\0" in path:
        raise Refused("path with .. or NUL refused", where=shown(path))
    return parts


def _walk(dir_fd: int, parts: list[bytes], flags: int) -> int:
    """Open PARTS one by one with O_NOFOLLOW; the fallback where openat2 is missing."""
    current = os.dup(dir_fd)
    try:
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            wanted = flags if last else kernel.O_PATH | os.O_DIRECTORY
            following = os.open(part, wanted | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current)
            os.close(current)
            current = following
        return current
    except BaseException:
        os.close(current)
        raise


def _mount_id(fd: int) -> bytes:
    """Return the id of the mount FD lies on, as proc(5) "fdinfo" tells it."""
    with open("/proc/self/fdinfo/%d" % fd, "rb") as stream:
        return next((line.split()[1] for line in stream if line.startswith(b"mnt_id:")), b"")


def _open_below(dir_fd: int, path: bytes, flags: int, resolve: int = _RESOLVE) -> int:
    """Return a descriptor for PATH below DIR_FD; links are never followed. Raises Refused, Unreadable, FileNotFoundError.

    With RESOLVE_NO_XDEV in RESOLVE nothing mounted over a part of PATH is entered either.
    """
    global _have_openat2
    parts = _components(path)
    if not parts:
        return os.open(b".", flags & ~os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if _have_openat2 is not False:
            for attempt in range(_EAGAIN_TRIES):
                try:
                    fd = kernel.openat2(dir_fd, b"/".join(parts), flags | os.O_NOFOLLOW, resolve)
                    _have_openat2 = True
                    return fd
                except OSError as exc:
                    if exc.errno == errno.EAGAIN and attempt < _EAGAIN_TRIES - 1:
                        continue
                    # EPERM is how a seccomp filter says "no such call"; a real EPERM shows again in the walk.
                    if _have_openat2 is None and exc.errno in (errno.ENOSYS, errno.EPERM):
                        _have_openat2 = False
                        break
                    raise
        fd = _walk(dir_fd, parts, flags)
        if resolve & kernel.RESOLVE_NO_XDEV and _mount_id(fd) != _mount_id(dir_fd):
            os.close(fd)
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return fd
    except FileNotFoundError:
        raise
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.EXDEV, errno.ENOTDIR):
            raise Refused("link, mount or non-directory in path refused", where=shown(path), cause=os.strerror(exc.errno or 0)) from None
        raise Unreadable("cannot open", where=shown(path), cause=os.strerror(exc.errno or 0)) from exc


class HeldDir:
    """A directory held open by descriptor, and the only way to what lies below it.

    Use as a context manager or close() it; a held directory pins its filesystem.
    """

    def __init__(self, fd: int, label: str, root_dev: Optional[int] = None, owners: Optional[Owners] = None) -> None:
        self.fd = fd
        self.label = label
        self.owners = owners
        self._root_dev = os.fstat(fd).st_dev if root_dev is None else root_dev
        self._accepted_devs: set[int] = {self._root_dev}
        self._kept: dict[bytes, int] = {}

    @classmethod
    def hold(cls, path: bytes) -> HeldDir:
        """Hold a directory of the host by PATH, whose parents the operator controls. Raises Unreadable, Refused."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as exc:
            kind = Refused if exc.errno in (errno.ELOOP, errno.ENOTDIR) else Unreadable
            raise kind("cannot hold directory", where=shown(path), cause=os.strerror(exc.errno or 0)) from exc
        return cls(fd, shown(path))

    def is_at(self, path: bytes) -> bool:
        """Is this directory still what PATH names? False when that is gone, or has been made anew."""
        try:
            there = os.lstat(path)
        except OSError as exc:
            return exc.errno != errno.ENOENT
        return os.path.samestat(there, os.fstat(self.fd))

    def __enter__(self) -> HeldDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self.keep(())

    def keep(self, paths: Iterable[bytes]) -> None:
        """Keep those of the directories PATHS open that lie on another filesystem than this one, and let go of others.

        What is mounted in a container (a claim, a volume) is unmounted with its last process; what was
        kept open is still there then, and open_dir finds it under its path.
        """
        kept = {path: fd for path in paths for fd in (self._open_mounted(path),) if fd >= 0}
        before, self._kept = self._kept, kept
        for fd in before.values():
            os.close(fd)

    def _open_mounted(self, path: bytes) -> int:
        try:
            with self.open_dir(path) as held:
                if os.fstat(held.fd).st_dev != self._root_dev:
                    return os.dup(held.fd)
        except (FileNotFoundError, Unreadable):
            pass
        return -1

    def _check_owner(self, uid: int, path: bytes) -> None:
        """Refuse what belongs to somebody else, where a user can make a root of anything (a rootless engine's)."""
        if self.owners is not None and not any(uid in ids for ids in self.owners):
            raise Refused("owned by uid %d, which is not the sandbox's" % uid, where=shown(path))

    def _check_filesystem(self, fd: int, dev: int, path: bytes) -> None:
        """Refuse kernel interfaces (a sandbox may mount its own /proc anywhere) and FUSE, which can hang a reader."""
        if dev in self._accepted_devs:
            return
        kind = kernel.filesystem_type(fd)
        if kind in kernel.PSEUDO_FILESYSTEMS or kind == kernel.FUSE_SUPER_MAGIC:
            raise Refused("filesystem of type 0x%x refused" % kind, where=shown(path))
        if len(self._accepted_devs) < 64:
            self._accepted_devs.add(dev)

    def open_dir(self, path: bytes) -> HeldDir:
        """Hold the directory at PATH below this one. Raises FileNotFoundError, Refused, Unreadable."""
        try:
            probe = _open_below(self.fd, path, kernel.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            if path not in self._kept:
                raise
            probe = os.dup(self._kept[path])
        try:
            seen = os.fstat(probe)
            self._check_filesystem(probe, seen.st_dev, path)
            self._check_owner(seen.st_uid, path)
            try:
                fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=probe)
            except FileNotFoundError:
                raise
            except OSError as exc:
                raise Unreadable("cannot list", where=shown(path), cause=os.strerror(exc.errno or 0)) from exc
        finally:
            os.close(probe)
        return HeldDir(fd, self.label + "/" + shown(path), self._root_dev, self.owners)

    def open_file(self, path: bytes) -> int:
        """Return a read-only descriptor of the regular file at PATH; the caller closes it.

        The object is pinned with O_PATH and inspected before a data open, so FIFOs, sockets,
        devices and links are refused without being touched. A single file mounted there is somebody
        else's file and refused too. Raises FileNotFoundError, Refused, Unreadable.
        """
        *parents, name = _components(path) or [b"."]
        if parents:
            with self.open_dir(b"/".join(parents)) as directory:
                return directory.open_file(name)
        probe = _open_below(self.fd, name, kernel.O_PATH, _RESOLVE | kernel.RESOLVE_NO_XDEV)
        try:
            seen = os.fstat(probe)
            if not stat.S_ISREG(seen.st_mode):
                raise Refused("not a regular file", where=shown(path), cause=_kind(seen.st_mode))
            # A hard link may be to a file of the host, where the sandbox shares a directory with it.
            if seen.st_nlink > 1:
                raise Refused("file with %d hard links" % seen.st_nlink, where=shown(path))
            self._check_filesystem(probe, seen.st_dev, path)
            self._check_owner(seen.st_uid, path)
            name = b"/proc/self/fd/%d" % probe
            try:
                # Reading should not even change the access time; only the owner or CAP_FOWNER may ask for that.
                return os.open(name, _DATA_FLAGS | _NOATIME)
            except PermissionError:
                return os.open(name, _DATA_FLAGS)
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise Unreadable("cannot read", where=shown(path), cause=os.strerror(exc.errno or 0)) from exc
        finally:
            os.close(probe)

    def stat(self, name: bytes) -> Optional[os.stat_result]:
        """Return lstat of the entry NAME of this very directory, None when it is gone."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise Unreadable("cannot stat", where=shown(name), cause=os.strerror(exc.errno or 0)) from exc

    def fstat(self, fd: int) -> os.stat_result:
        """Return what is known of a file that open_file gave; st_ino 0 on a route that has no inode numbers."""
        return os.fstat(fd)

    def listing_mark(self) -> tuple[int, int]:
        """Return two numbers that change when an entry comes or goes."""
        seen = os.fstat(self.fd)
        return (seen.st_ino, seen.st_mtime_ns)

    def names(self, limit: int = MAX_ENTRIES) -> tuple[list[bytes], bool]:
        """Return at most LIMIT entry names, and whether there were more."""
        found: list[bytes] = []
        try:
            with os.scandir(self.fd) as entries:
                for entry in entries:
                    if len(found) >= limit:
                        return found, True
                    found.append(os.fsencode(entry.name))
        except OSError as exc:
            raise Unreadable("cannot list", where=self.label, cause=os.strerror(exc.errno or 0)) from exc
        return found, False

    def read_small(self, path: bytes, limit: int) -> tuple[bytes, os.stat_result]:
        """Return at most LIMIT bytes of a regular file and its fstat; never more than st_size says."""
        fd = self.open_file(path)
        try:
            seen = os.fstat(fd)
            data = b""
            wanted = min(limit, seen.st_size)
            while len(data) < wanted:
                piece = os.pread(fd, wanted - len(data), len(data))
                if not piece:
                    break
                data += piece
            return data, seen
        except OSError as exc:
            raise Unreadable("cannot read", where=shown(path), cause=os.strerror(exc.errno or 0)) from exc
        finally:
            os.close(fd)


def _kind(mode: int) -> str:
    for test, word in (
        (stat.S_ISLNK, "symbolic link"),
        (stat.S_ISDIR, "directory"),
        (stat.S_ISFIFO, "FIFO"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISCHR, "character device"),
        (stat.S_ISBLK, "block device"),
    ):
        if test(mode):
            return word
    return "unknown kind"
