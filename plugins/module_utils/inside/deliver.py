# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""What the daemon needs inside a sandbox, as one tree below /opt/clawmetry: planned first, then written; or removed.

    clawmetry.pyz  clawmetry          root's
    venv/                             root's; its interpreter is a copy of the sandbox's, so that an egress rule can name it
    etc/  state/                      of the daemon's user, closed to all others
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Optional

from .. import config
from ..errors import ConfigError, Unreadable, shown
from ..read.opener import HeldDir
from . import tree
from .look import PLACE, Look, Python
from .tree import Entry

ROOT = "/" + PLACE.decode()
PYTHON = ROOT + "/venv/bin/python3"
CONFIG = ROOT + "/etc/clawmetry.yml"
# Isolated from the environment and the user's own packages, and leaving no compiled files behind.
COMMAND = (PYTHON, "-IB", ROOT + "/clawmetry.pyz", "--config", CONFIG)
KEYS = ("api_key", "encryption_key")
MAX_KEY = 4096
MAX_PROGRAM = 64 << 20
_LAUNCHER = '#!/bin/sh\nexec %s "$@"\n' % " ".join(COMMAND)
_VENV = "home = %s\ninclude-system-site-packages = false\nversion = %s\n"


@dataclass(frozen=True)
class Plan:
    """What is to be written and what is to go, relative to the place."""

    wanted: tree.Tree
    wrong: list[bytes]
    extra: list[bytes]

    @property
    def changed(self) -> bool:
        return bool(self.wrong or self.extra)


def settings_inside(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole configuration of a daemon inside: GIVEN, and where it finds its own. Raises ConfigError."""
    fixed = {
        "state_dir": ROOT + "/state",
        "api_key_file": ROOT + "/etc/api_key",
        "encryption_key_file": ROOT + "/etc/encryption_key",
        "discover": ["openclaw"],
    }
    taken = sorted(set(given) & set(fixed))
    if taken:
        raise ConfigError("%s cannot be set for a daemon inside a sandbox" % ", ".join(taken))
    whole = {**given, **fixed}
    if config.build(whole, {}, CONFIG).is_archive:
        why = "an archive in a sandbox goes with it, and the agent's disk is no place for it"
        raise ConfigError("a daemon inside a sandbox needs an ingest", cause=why, next_step="give an https URL, or install on the host")
    return whole


def wanted(
    seen: Look, root: HeldDir, *, release: str, packages: str, given: Mapping[str, Any], keys: Mapping[str, Optional[str]]
) -> tree.Tree:
    """Return the tree. RELEASE and PACKAGES are on the host; a key that is None stays as it is there. Raises ConfigError."""
    python = seen.python
    if python is None:
        raise ConfigError("no Python", where=shown(seen.name))

    def own(mode: int, data: Optional[Callable[[], bytes]] = None) -> Entry:
        return Entry(mode, seen.user, seen.group, data)

    library = b"venv/lib/python%d.%d" % python.version[:2]
    text = (json.dumps(settings_inside(given), indent=2, sort_keys=True) + "\n").encode()
    found: dict[bytes, Entry] = {
        b"": Entry(0o755),
        b"clawmetry.pyz": Entry(0o644, data=_file(release)),
        b"clawmetry": Entry(0o755, data=_LAUNCHER.encode),
        b"venv": Entry(0o755),
        b"venv/pyvenv.cfg": Entry(0o644, data=_venv(python)),
        b"venv/bin": Entry(0o755),
        b"venv/bin/python3": Entry(0o755, data=lambda: root.read_small(python.path, MAX_PROGRAM)[0]),
        b"venv/lib": Entry(0o755),
        library: Entry(0o755),
        b"etc": own(0o700),
        b"etc/clawmetry.yml": own(0o600, lambda: text),
        b"state": own(0o700),
    }
    for name in KEYS:
        found[b"etc/" + name.encode()] = own(0o600, _key(root, name, keys.get(name)))
    for path, entry in _packages(packages):
        found[library + b"/site-packages" + path] = entry
    return found


def _venv(python: Python) -> Callable[[], bytes]:
    home = "/" + os.fsdecode(os.path.dirname(python.path))
    return (_VENV % (home, ".".join(map(str, python.version)))).encode


def _file(path: str) -> Callable[[], bytes]:
    def read() -> bytes:
        with open(path, "rb") as stream:
            return stream.read()

    return read


def _key(root: HeldDir, name: str, text: Optional[str]) -> Callable[[], bytes]:
    if text:
        return (text.strip() + "\n").encode
    try:
        data = root.read_small(PLACE + b"/etc/" + name.encode(), MAX_KEY)[0]
    except (FileNotFoundError, Unreadable):
        data = b""
    if not data:
        what = name.replace("_", " ")
        raise ConfigError("there is no %s, neither given nor in the sandbox" % what, next_step="give it; no key, no upload")
    return lambda: data


def _packages(top: str) -> list[tuple[bytes, Entry]]:
    """Return (path, entry) of each directory and file below TOP, which pip has filled; TOP itself is b"". """
    found: list[tuple[bytes, Entry]] = []
    for folder, folders, names in os.walk(os.fsencode(top)):
        folders[:] = sorted(name for name in folders if name != b"__pycache__")
        below = folder[len(os.fsencode(top)) :]
        found.append((below, Entry(0o755)))
        found += [(below + b"/" + name, Entry(0o644, data=_file(os.fsdecode(folder + b"/" + name)))) for name in names]
    return found


def plan(held: HeldDir, tree_wanted: tree.Tree) -> Plan:
    """Compare. Writes nothing. Raises Unreadable."""
    try:
        place: Optional[HeldDir] = held.open_dir(PLACE)
    except FileNotFoundError:
        place = None
    try:
        wrong, extra = tree.differences(place, tree_wanted, leave=frozenset([b"state"]))
    finally:
        if place is not None:
            place.close()
    return Plan(tree_wanted, wrong, extra)


def carry_out(held: HeldDir, made: Plan) -> None:
    """Write what the plan says. Raises OSError, Unreadable."""
    parent, _slash, name = PLACE.rpartition(b"/")
    with held.open_dir(parent) as directory:
        tree.write(directory, name, made.wanted, made.wrong, made.extra)


def remove(held: HeldDir) -> None:
    """Leave nothing of ours. Raises OSError, Unreadable."""
    parent, _slash, name = PLACE.rpartition(b"/")
    with held.open_dir(parent) as directory:
        tree.remove(directory, name)


def text_of(held: HeldDir, path: bytes) -> str:
    """Return a small file of the place as text, "" when it is not there."""
    try:
        return held.read_small(PLACE + b"/" + path, 1 << 20)[0].decode("utf-8", "replace")
    except (FileNotFoundError, Unreadable):
        return ""
