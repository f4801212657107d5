# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The system calls Python has no wrapper for."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from clawmetry_sync import kernel


def has_openat2() -> bool:
    root = os.open("/", os.O_PATH)
    try:
        os.close(kernel.openat2(root, b"proc", kernel.O_PATH, 0))
        return True
    except OSError as exc:
        return exc.errno not in (errno.ENOSYS, errno.EPERM)
    finally:
        os.close(root)


needs_openat2 = pytest.mark.skipif(not has_openat2(), reason="this kernel has no openat2")


@needs_openat2
@pytest.mark.parametrize(
    ("path", "resolve", "number"),
    [
        (b"link", kernel.RESOLVE_NO_SYMLINKS, errno.ELOOP),
        (b"../x", kernel.RESOLVE_BENEATH, errno.EXDEV),
        (b"/etc", kernel.RESOLVE_BENEATH, errno.EXDEV),
        (b"none", 0, errno.ENOENT),
        (b"x" * 300, 0, errno.ENAMETOOLONG),
        (b"file", 1 << 40, errno.EINVAL),
    ],
)
def test_errors_come_with_their_number(tmp_path: Path, path: bytes, resolve: int, number: int) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("file")
    directory = os.open(tmp_path, os.O_PATH)
    try:
        with pytest.raises(OSError, match=".") as caught:
            kernel.openat2(directory, path, os.O_RDONLY, resolve)
        assert caught.value.errno == number
    finally:
        os.close(directory)


@needs_openat2
def test_a_descriptor_is_closed_on_exec_and_confined_to_its_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_bytes(b"mine")
    directory = os.open(tmp_path, os.O_PATH)
    try:
        for path in (b"etc/passwd", b"/etc/passwd", b"../../../etc/passwd"):
            fd = kernel.openat2(directory, path, os.O_RDONLY, kernel.RESOLVE_IN_ROOT)
            assert os.read(fd, 9) == b"mine"
            assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
            os.close(fd)
    finally:
        os.close(directory)


def test_without_the_call_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_LIBC", None)
    with pytest.raises(OSError, match="not available") as caught:
        kernel.openat2(0, b"x", 0, 0)
    assert caught.value.errno == errno.ENOSYS
    assert kernel.filesystem_type(0) == 0


def test_tells_filesystems_apart(tmp_path: Path) -> None:
    for path, wanted in (("/proc", True), (str(tmp_path), False)):
        fd = os.open(path, os.O_PATH)
        try:
            assert (kernel.filesystem_type(fd) in kernel.PSEUDO_FILESYSTEMS) is wanted
            assert (kernel.filesystem_type(fd) == kernel.PROC_SUPER_MAGIC) is wanted
        finally:
            os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        kernel.filesystem_type(-1)
