# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The opener's conformance suite: both ways of resolving a path have to pass the same tests."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawmetry_sync import kernel
from clawmetry_sync.errors import Refused, Unreadable
from clawmetry_sync.read import opener
from clawmetry_sync.read.opener import HeldDir

SECRET = b"what no sandbox may reach"


@pytest.fixture(params=["openat2", "walk"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the kernel's own resolution where it has one, and with the component walk."""
    monkeypatch.setattr(opener, "_have_openat2", None if request.param == "openat2" else False)
    if request.param == "openat2":
        root = os.open("/", kernel.O_PATH)
        try:
            os.close(kernel.openat2(root, b"proc", kernel.O_PATH, kernel.RESOLVE_IN_ROOT))
        except OSError as exc:
            if exc.errno in (errno.ENOSYS, errno.EPERM):
                pytest.skip("this kernel has no openat2")
            raise
        finally:
            os.close(root)
    else:
        monkeypatch.setattr(kernel, "openat2", None)  # a call would show
    return str(request.param)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    secret = tmp_path / "outside" / "secret.jsonl"
    secret.parent.mkdir()
    secret.write_bytes(SECRET)
    secret.chmod(0o600)
    return secret


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    (directory / "a" / "b").mkdir(parents=True)
    (directory / "a" / "b" / "file.jsonl").write_bytes(b"inside\n")
    return directory


@pytest.fixture
def held(root: Path) -> Iterator[HeldDir]:
    with HeldDir.hold(os.fsencode(root)) as directory:
        yield directory


def read(held: HeldDir, path: bytes) -> bytes:
    return held.read_small(path, 1 << 20)[0]


def test_reads_a_regular_file_below_the_root(held: HeldDir) -> None:
    assert read(held, b"a/b/file.jsonl") == b"inside\n"
    assert read(held, b"/a//./b/file.jsonl") == b"inside\n"
    with held.open_dir(b"a/b") as below:
        assert below.names() == ([b"file.jsonl"], False)
        assert read(below, b"file.jsonl") == b"inside\n"


def test_opens_for_reading_only_without_blocking_and_closed_on_exec(held: HeldDir) -> None:
    fd = held.open_file(b"a/b/file.jsonl")
    try:
        assert os.get_blocking(fd) is False
        assert os.get_inheritable(fd) is False
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(fd, b"x")
    finally:
        os.close(fd)


def test_absent_is_not_refused(held: HeldDir) -> None:
    for path in (b"a/b/none.jsonl", b"none/x.jsonl"):
        with pytest.raises(FileNotFoundError):
            held.open_file(path)
        with pytest.raises(FileNotFoundError):
            held.open_dir(path)
    assert held.stat(b"none") is None


@pytest.mark.parametrize(
    "target",
    [
        "{secret}",
        "../../../outside/secret.jsonl",
        "/proc/self/root{secret}",
        "file.jsonl",
        "/proc/self/environ",
        "/dev/stdin",
        "loop.jsonl",
    ],
)
def test_a_symlink_as_the_file_is_refused(held: HeldDir, root: Path, outside: Path, target: str) -> None:
    name = "loop.jsonl" if target == "loop.jsonl" else "x.jsonl"
    (root / "a" / "b" / name).symlink_to(target.format(secret=outside))
    with pytest.raises(Refused):
        held.open_file(b"a/b/" + os.fsencode(name))
    with held.open_dir(b"a/b") as below, pytest.raises(Refused):
        below.open_file(os.fsencode(name))


@pytest.mark.parametrize("target", ["{outside}", "../outside", "a/b", "/proc/self/root{outside}", "/proc/self/fd/0", "/proc/self/cwd"])
def test_a_symlink_as_a_directory_is_refused(held: HeldDir, root: Path, outside: Path, target: str) -> None:
    (root / "link").symlink_to(target.format(outside=outside.parent))
    for path in (b"link/secret.jsonl", b"link/file.jsonl", b"link/./secret.jsonl"):
        with pytest.raises(Refused):
            held.open_file(path)
    with pytest.raises(Refused):
        held.open_dir(b"link")
    with pytest.raises(Refused):
        held.open_dir(b"link/")


@pytest.mark.parametrize(
    "path", [b"../outside/secret.jsonl", b"a/../../outside/secret.jsonl", b"a/b/..", b"..", b"a\0/b", b"a/b/file.jsonl\0"]
)
def test_dots_and_nul_in_a_path_are_refused(held: HeldDir, outside: Path, path: bytes) -> None:
    for call in (held.open_file, held.open_dir):
        with pytest.raises(Refused):
            call(path)


def test_the_root_itself_is_never_left_even_when_held_twice(held: HeldDir) -> None:
    with held.open_dir(b".") as again, pytest.raises(Refused):
        again.open_file(b"../outside/secret.jsonl")


def _spy_on_opens(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, int]]:
    """Record every open of the opener: what is opened for data, and what only as a place."""
    seen: list[tuple[bytes, int]] = []
    real_open = os.open

    def spy(path: bytes, flags: int, *rest: object, **options: object) -> int:
        seen.append((path, flags))
        return real_open(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", spy)
    if kernel.openat2 is not None:
        real_openat2 = kernel.openat2

        def spy2(dir_fd: int, path: bytes, flags: int, resolve: int) -> int:
            seen.append((path, flags))
            return real_openat2(dir_fd, path, flags, resolve)

        monkeypatch.setattr(kernel, "openat2", spy2)
    return seen


def _make(kind: str, path: Path) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
        finally:
            os.chdir(here)
    else:
        mode, major, minor = {"zero": (stat.S_IFCHR, 1, 5), "kmsg": (stat.S_IFCHR, 1, 11), "disk": (stat.S_IFBLK, 8, 0)}[kind]
        try:
            os.mknod(path, mode | 0o666, os.makedev(major, minor))
        except PermissionError:
            pytest.skip("may not make device nodes here")


@pytest.mark.parametrize("kind", ["fifo", "directory", "socket", "zero", "kmsg", "disk"])
def test_what_is_no_regular_file_is_refused_before_a_data_open(
    held: HeldDir, root: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _make(kind, root / "x.jsonl")
    opens = _spy_on_opens(monkeypatch)
    with pytest.raises(Refused, match="not a regular file"):
        held.open_file(b"x.jsonl")
    assert opens
    assert all(flags & kernel.O_PATH for _path, flags in opens)


def test_a_regular_file_is_inspected_before_its_data_open(held: HeldDir, monkeypatch: pytest.MonkeyPatch) -> None:
    opens = _spy_on_opens(monkeypatch)
    os.close(held.open_file(b"a/b/file.jsonl"))
    *places, (path, flags) = [entry for entry in opens if not entry[0].startswith(b"/proc/self/fdinfo/")]
    assert all(flag & (kernel.O_PATH | os.O_DIRECTORY) for _path, flag in places)
    assert path.startswith(b"/proc/self/fd/")
    assert flags & os.O_NONBLOCK and not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)


def test_a_hard_link_is_refused(held: HeldDir, root: Path, outside: Path) -> None:
    os.link(outside, root / "x.jsonl")
    with pytest.raises(Refused, match="2 hard links"):
        held.open_file(b"x.jsonl")


def test_a_file_in_place_of_a_directory_is_refused(held: HeldDir) -> None:
    with pytest.raises(Refused):
        held.open_dir(b"a/b/file.jsonl")
    with pytest.raises(Refused):
        held.open_file(b"a/b/file.jsonl/x")


def test_kernel_interfaces_are_refused() -> None:
    """A sandbox with more rights than the usual may mount a procfs wherever it likes."""
    with HeldDir.hold(b"/") as host:
        with pytest.raises(Refused, match="filesystem of type 0x9fa0"):
            host.open_dir(b"proc")
        with pytest.raises(Refused, match="filesystem of type 0x9fa0"):
            host.open_file(b"proc/version")
        with pytest.raises(Refused):
            host.open_file(b"proc/self/environ")


def test_a_held_directory_is_no_link(tmp_path: Path, root: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(Refused):
        HeldDir.hold(os.fsencode(tmp_path / "link"))
    with pytest.raises(Refused):
        HeldDir.hold(os.fsencode(root / "a" / "b" / "file.jsonl"))
    with pytest.raises(Unreadable):
        HeldDir.hold(os.fsencode(tmp_path / "none"))


def test_never_reads_past_the_size_or_the_limit(held: HeldDir, root: Path) -> None:
    (root / "big").write_bytes(b"x" * 1000)
    data, seen = held.read_small(b"big", 10)
    assert (data, seen.st_size) == (b"x" * 10, 1000)
    assert len(held.read_small(b"big", 1 << 30)[0]) == 1000


def test_names_are_bytes_and_bounded(held: HeldDir, root: Path) -> None:
    hostile = b"\xff\xfe \n\x1b[31m$(id);%s"
    (root / os.fsdecode(hostile)).write_bytes(b"x")
    assert hostile in held.names()[0]
    assert read(held, hostile) == b"x"
    names, more = held.names(1)
    assert len(names) == 1 and more


def test_reading_changes_no_access_time(held: HeldDir, root: Path) -> None:
    path = root / "a" / "b" / "file.jsonl"
    os.utime(path, (1, 1))
    assert read(held, b"a/b/file.jsonl") == b"inside\n"
    assert path.stat().st_atime == 1


def test_a_too_long_name_is_isolated(held: HeldDir) -> None:
    for path in (b"x" * 300, b"x/" * 3000):
        with pytest.raises((Unreadable, FileNotFoundError)):
            held.open_file(path)


def test_no_descriptor_leaks(held: HeldDir, root: Path, outside: Path) -> None:
    (root / "link.jsonl").symlink_to(outside)
    (root / "fifo").mkdir()
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    for path in (b"link.jsonl", b"fifo", b"none", b"a/b/file.jsonl", b"a/../x", b"a/b/file.jsonl/x"):
        with contextlib.suppress(Refused, FileNotFoundError):
            os.close(held.open_file(path))
        with contextlib.suppress(Refused, FileNotFoundError):
            held.open_dir(path).close()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_falls_back_to_the_walk_when_the_call_is_not_there(
    held: HeldDir, root: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (errno.ENOSYS, errno.EPERM):

        def missing(*_arguments: object, number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(opener, "_have_openat2", None)
        monkeypatch.setattr(kernel, "openat2", missing)
        assert read(held, b"a/b/file.jsonl") == b"inside\n"
        assert opener._have_openat2 is False


def test_eagain_of_a_rename_elsewhere_is_tried_again(held: HeldDir, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "walk":
        pytest.skip("the walk never says EAGAIN")
    real, left = kernel.openat2, [3]

    def restless(*arguments: object) -> int:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EAGAIN, "renamed")
        return real(*arguments)

    monkeypatch.setattr(kernel, "openat2", restless)
    assert read(held, b"a/b/file.jsonl") == b"inside\n"

    def for_ever(*_arguments: object) -> int:
        raise OSError(errno.EAGAIN, "renamed")

    monkeypatch.setattr(kernel, "openat2", for_ever)
    with pytest.raises(Unreadable):
        held.open_file(b"a/b/file.jsonl")
