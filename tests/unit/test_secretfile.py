# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""S21: a key file is a regular file of a safe owner, closed to others, in a safe directory; else nothing starts."""

from __future__ import annotations

import gc
import os
import socket
from pathlib import Path

import pytest

from clawmetry_sync import secretfile
from clawmetry_sync.config import Settings
from clawmetry_sync.errors import ConfigError
from clawmetry_sync.secretfile import read_secret

SECRET = "cm_secret_0123456789"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "etc"
    made.mkdir(mode=0o755)
    return made


@pytest.fixture
def file(directory: Path) -> Path:
    path = directory / "api_key"
    path.touch(mode=0o600)
    path.write_text(SECRET + "\n")
    return path


def refused(path: Path, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        read_secret(str(path), "API key")
    assert SECRET not in str(caught.value)
    assert "API key" in str(caught.value)


def test_the_text_is_stripped(file: Path) -> None:
    assert read_secret(str(file), "API key") == SECRET
    file.chmod(0o400)
    assert read_secret(str(file), "API key") == SECRET


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602, 0o644, 0o610, 0o601, 0o777])
def test_open_to_others_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    refused(file, "open to others .mode %04o" % mode)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o1777])
def test_a_directory_others_can_write_is_refused(file: Path, mode: int) -> None:
    file.parent.chmod(mode)
    refused(file, "can be written by others")


def test_a_link_is_refused(file: Path) -> None:
    link = file.parent / "link"
    link.symlink_to(file)
    refused(link, "Too many levels|symbolic link")


def test_what_is_no_file_is_refused_without_waiting(directory: Path) -> None:
    os.mkfifo(directory / "fifo", 0o600)
    refused(directory / "fifo", "not a regular file")
    (directory / "dir").mkdir(mode=0o700)
    refused(directory / "dir", "not a regular file")
    here = os.getcwd()
    os.chdir(directory)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("sock")
    finally:
        os.chdir(here)
    refused(directory / "sock", "cannot read")


def test_absent_says_what_to_do(directory: Path) -> None:
    refused(directory / "none", "put it there .mode 0600.")


@pytest.mark.root
def test_another_owner_is_refused(file: Path) -> None:
    os.chown(file, 12345, 0)
    refused(file, "belongs to uid 12345")
    os.chown(file, 0, 0)
    os.chown(file.parent, 12345, 0)
    refused(file, "directory of the API key")


@pytest.mark.root
def test_roots_file_is_good_for_a_service_user(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert read_secret(str(file), "API key") == SECRET


@pytest.mark.parametrize("content", [b"", b" \n\t\n", b"a\nb\n", b"k\x00y", b"\xff\xfe", b"a\x07b", b"x" * 5000])
def test_what_is_no_line_of_text_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    refused(file, "empty, longer than one line, or not text")


def test_passphrases_of_old_installations_and_marks_of_editors(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + "schlüssel".encode() + b"\r\n")
    assert secretfile.encryption_key_text(Settings(encryption_key_file=str(file)), {}) == "schlüssel"


@pytest.mark.parametrize("key", ["two words", "schlüssel", "a\nX-Admin: yes", "a\rb", "a\x07b"])
def test_an_api_key_that_no_header_can_carry_is_refused_and_not_shown(file: Path, key: str) -> None:
    for settings, environment in ((Settings(), {"CLAWMETRY_API_KEY": key}), (Settings(api_key_file=str(file)), {})):
        file.write_text(key)
        with pytest.raises(ConfigError) as caught:
            secretfile.api_key(settings, environment)
        assert key not in str(caught.value) and "X-Admin" not in str(caught.value)


def test_a_link_is_called_a_link(directory: Path, file: Path) -> None:
    (directory / "link").symlink_to(file)
    refused(directory / "link", "it is a symbolic link")


def test_systemds_credentials_may_show_group_bits(file: Path) -> None:
    file.chmod(0o440)
    assert read_secret(str(file), "API key", from_systemd=True) == SECRET
    for mode in (0o444, 0o460, 0o442):
        file.chmod(mode)
        with pytest.raises(ConfigError):
            read_secret(str(file), "API key", from_systemd=True)


def test_no_descriptor_leaks(file: Path) -> None:
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    read_secret(str(file), "API key")
    file.chmod(0o644)
    refused(file, "open to others")
    assert set(os.listdir("/proc/self/fd")) <= before


def test_where_the_api_key_comes_from(file: Path, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir(mode=0o700)
    settings = Settings(api_key_file=str(file))
    environment = {"CREDENTIALS_DIRECTORY": str(credentials), "CLAWMETRY_API_KEY": "from_the_environment"}
    assert secretfile.api_key(Settings(), environment) == "from_the_environment"
    assert secretfile.api_key(settings, environment) == SECRET
    (credentials / "api_key").touch(mode=0o400)
    (credentials / "api_key").write_text("from_systemd")
    assert secretfile.api_key(settings, environment) == "from_systemd"
    assert secretfile.api_key(Settings(), {}) is None


def test_no_encryption_key_says_how_to_make_one(directory: Path) -> None:
    with pytest.raises(ConfigError, match="clawmetry keygen"):
        secretfile.encryption_key_text(Settings(encryption_key_file=str(directory / "none")), {})
