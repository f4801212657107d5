# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Configuration, keys, and who else could read or change them."""

from __future__ import annotations

import errno
import os
import stat
from typing import Callable, Optional
from urllib.parse import urlsplit

from .. import secretfile
from ..errors import ClawmetryError, shown
from ..seal import Sealer, is_passphrase, parse_key
from ..ship.archive import foreign_envelopes
from ..ship.https import tls_context
from .check import FAIL, OK, WARN, Check, Ground, told


def config(ground: Ground) -> list[Check]:
    settings = ground.settings
    why = "whoever can change it decides where transcripts go"
    checks = [Check("config", OK, settings.path or "no file; defaults", "every key in it is known and of the right kind")]
    if settings.path is not None:
        seen = os.stat(settings.path)
        bits = stat.S_IMODE(seen.st_mode)
        if seen.st_mode & 0o022 or seen.st_uid not in (0, ground.euid):
            text = "%s belongs to uid %d, mode %04o" % (settings.path, seen.st_uid, bits)
            checks.append(Check("config file", WARN, text, why, "chown root %s && chmod 0640 %s" % (settings.path, settings.path)))
        elif settings.proxy and urlsplit(settings.proxy).password and bits & 0o004:
            text = "its proxy has a password, and all may read it (mode %04o)" % bits
            checks.append(Check("config file", WARN, text, "others can use that password", "chmod 0640 %s" % settings.path))
    if settings.ca_file:
        try:
            tls_context(settings.ca_file)
        except ClawmetryError as exc:
            checks.append(Check("ca_file", FAIL, told(exc), "no connection can be verified", "give a PEM bundle that can be read"))
    return checks


def keys(ground: Ground) -> list[Check]:
    settings = ground.settings
    why = "it opens every upload of this host; no key, no upload"
    checks = [_secret(ground, "encryption key", settings.encryption_key_file, why, lambda: _encryption(ground))]
    checks += _archive(ground)
    if not settings.is_archive:
        why = "the ingest takes nothing without it"
        checks.append(_secret(ground, "api key", settings.api_key_file, why, lambda: secretfile.api_key(settings, ground.env)))
    return checks


def _archive(ground: Ground) -> list[Check]:
    """Only when it is wrong: does our key open what was archived?"""
    try:
        text = _encryption(ground)
        foreign = foreign_envelopes(ground.settings.archive_dir, Sealer(parse_key(text)).open) if text else None
    except ClawmetryError:
        return []  # said above
    if foreign is None:
        return []
    why = "the cloud and this host only have the key that is configured now"
    return [Check("archive", WARN, foreign, why, "clawmetry archive list with the former key in encryption_key_file")]


def _encryption(ground: Ground) -> Optional[str]:
    return secretfile.encryption_key_text(ground.settings, ground.env)


def _secret(ground: Ground, name: str, path: Optional[str], why: str, read: Callable[[], Optional[str]]) -> Check:
    try:
        text = read()
    except ClawmetryError as exc:
        # access(2) would not do: it leaves out the capabilities that the service reads with.
        if ground.euid != 0 and path and exc.cause == os.strerror(errno.EACCES):
            return Check(name, WARN, "%s is closed to uid %d, as it should be" % (path, ground.euid), why, "sudo clawmetry doctor")
        return Check(name, FAIL, told(exc), why, exc.next_step or "clawmetry check-config")
    if not text:
        return Check(name, FAIL, "none", why, "put it into api_key_file (mode 0600)")
    if name == "encryption key" and is_passphrase(text):
        why = "it is turned into a key without salt, so it can be guessed"
        return Check(name, WARN, "a passphrase, not a key", why, "clawmetry keygen")
    return Check(name, OK, "readable by its owner alone", why)


def state(ground: Ground) -> list[Check]:
    """The state directory and the room left on its disk."""
    settings = ground.settings
    why = "cursors and what waits for its upload are kept there"
    place = settings.state_dir
    checks = []
    try:
        seen = os.lstat(place)
    except FileNotFoundError:
        checks.append(Check("state", OK, "%s is not there yet" % place, why))
    else:
        bits = stat.S_IMODE(seen.st_mode)
        if not stat.S_ISDIR(seen.st_mode) or bits & 0o077:
            text = "%s is %s, mode %04o" % (place, "a directory" if stat.S_ISDIR(seen.st_mode) else "no directory", bits)
            checks.append(Check("state", WARN, text, why, "chmod 0700 %s" % shown(place)))
        else:
            checks.append(Check("state", OK, "%s, uid %d, mode %04o" % (place, seen.st_uid, bits), why))
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    pending = int((ground.status or {}).get("queue", {}).get("pending_bytes") or 0)
    wanted = max(0, settings.queue_max_bytes - pending)
    text = "%d MB free, the queue may still take %d MB" % (free >> 20, wanted >> 20)
    why = "on a full disk reading stops until there is room; nothing is lost, and nothing is synced"
    step = "free space below %s, or lower queue_max_bytes" % place
    level = FAIL if free < 16 << 20 else WARN if free < wanted else OK
    checks.append(Check("disk", level, text, why, "" if level == OK else step))
    return checks
