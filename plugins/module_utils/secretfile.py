# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Secret files: the API key and the encryption key, read with the checks of contract S21.

A secret never leaves this module in a message; callers hold it in memory only.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Mapping, Optional

from .config import Settings, credential
from .errors import ConfigError, shown

MAX_SECRET_BYTES = 4096


def read_secret(path: str, what: str, *, from_systemd: bool = False) -> str:
    """Return the stripped text of a secret file. Raises ConfigError unless it is private to its owner.

    A regular file, not a link, owned by root or by us, closed to group and others, in a directory
    that others cannot write. systemd's credential files show their ACL mask as group bits.
    """
    cure = "chown root (or the service's user) and chmod 0600 it"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        step = "put it there (mode 0600)" if isinstance(exc, FileNotFoundError) else cure
        cause = "it is a symbolic link" if exc.errno == errno.ELOOP else os.strerror(exc.errno or 0)
        raise ConfigError("cannot read the %s" % what, where=shown(path), cause=cause, next_step=step) from None
    try:
        seen = os.fstat(fd)
        loose = seen.st_mode & (0o037 if from_systemd else 0o077)
        if not stat.S_ISREG(seen.st_mode):
            raise ConfigError("the %s is not a regular file" % what, where=shown(path), next_step=cure)
        if seen.st_uid not in (0, os.geteuid()):
            raise ConfigError("the %s belongs to uid %d" % (what, seen.st_uid), where=shown(path), next_step=cure)
        if loose:
            raise ConfigError(
                "the %s is open to others (mode %04o)" % (what, stat.S_IMODE(seen.st_mode)), where=shown(path), next_step=cure
            )
        parent = os.stat(os.path.dirname(path) or ".")
        if parent.st_uid not in (0, os.geteuid()) or (parent.st_mode & 0o022 and not from_systemd):
            raise ConfigError(
                "the directory of the %s can be written by others (mode %04o)" % (what, stat.S_IMODE(parent.st_mode)),
                where=shown(os.path.dirname(path)),
                next_step="chmod go-w it",
            )
        data = os.read(fd, MAX_SECRET_BYTES + 1)
    finally:
        os.close(fd)
    try:
        # A passphrase of an old installation may have letters beyond ASCII; an editor may have put a mark before it.
        text = data.decode("utf-8-sig").strip() if len(data) <= MAX_SECRET_BYTES else ""
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable():
        raise ConfigError("the %s is empty, longer than one line, or not text" % what, where=shown(path))
    return text


def _header_value(key: str, where: str) -> str:
    """Return an API key that can be sent as a header. Raises ConfigError, which does not show it."""
    if not all("!" <= letter <= "~" for letter in key):
        raise ConfigError("the API key has a space, a control character or a letter beyond ASCII in it", where=shown(where))
    return key


def api_key(settings: Settings, env: Mapping[str, str]) -> Optional[str]:
    """Return the API key: systemd credential, then file, then CLAWMETRY_API_KEY; None when there is none."""
    handed = credential(env, "api_key")
    if handed:
        return _header_value(read_secret(handed, "API key", from_systemd=True), handed)
    if settings.api_key_file:
        return _header_value(read_secret(settings.api_key_file, "API key"), settings.api_key_file)
    key = env.get("CLAWMETRY_API_KEY", "").strip()
    return _header_value(key, "CLAWMETRY_API_KEY") if key else None


def encryption_key_text(settings: Settings, env: Mapping[str, str]) -> str:
    """Return the encryption key as written. Raises ConfigError: no key, no upload."""
    handed = credential(env, "encryption_key")
    if handed:
        return read_secret(handed, "encryption key", from_systemd=True)
    try:
        return read_secret(settings.encryption_key_file, "encryption key")
    except ConfigError as exc:
        if not os.path.lexists(settings.encryption_key_file):
            exc.next_step = "umask 077; clawmetry keygen > %s" % settings.encryption_key_file
        raise
