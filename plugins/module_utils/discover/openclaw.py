# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""OpenClaw itself: state directories in users' homes (bare, no sandbox), and whether it is on this host.

Homes are held through the opener, so a link planted as .openclaw is refused. Sources:
reference/openclaw.md §1 (OPENCLAW_STATE_DIR, OPENCLAW_HOME, profiles).
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Mapping, Optional, Sequence, Union

from ..errors import Unreadable, shown
from ..model import HomePlace, Runtime, Sandbox, Security
from ..read.layout import state_below
from ..read.opener import HeldDir
from .accounts import Account, Accounts, below
from .binaries import Lookups
from .names import clean

MAX_PROFILES = 50
_STATE = b".openclaw"


def find(accounts: Sequence[Account], env: Mapping[str, str], root: str = "/") -> tuple[list[Sandbox], list[str]]:
    """Return the bare state directories that hold agents or a workspace, and what could not be looked into."""
    found: dict[str, Sandbox] = {}
    warnings: list[str] = []
    homes = list(accounts)
    named = env.get("OPENCLAW_HOME", "")
    if os.path.isabs(named) and os.path.normpath(named) not in [account.home for account in homes]:
        home = os.path.normpath(named)
        homes.append(Account(_owner_name(accounts, below(root, home)), None, home, below(root, home)))
    for account in homes:
        path = account.path.encode("utf-8", "surrogateescape")
        try:
            with HeldDir.hold(path) as held:
                for state in _candidates(held):
                    if state_below(held, state):
                        box = _sandbox(account, path, state)
                        found.setdefault(box.uid, box)
                        continue
                    why = _closed(held, state)
                    if why:
                        warnings.append("openclaw: %s/%s: %s" % (account.home.rstrip("/"), shown(state), why))
        except Unreadable as exc:
            if account.uid is None or os.path.lexists(account.path):
                warnings.append("openclaw: " + str(exc))
    stated = env.get("OPENCLAW_STATE_DIR", "")
    if os.path.isabs(stated):
        box_or_why = _stated(accounts, os.path.normpath(stated), root)
        if isinstance(box_or_why, Sandbox):
            found.setdefault(box_or_why.uid, box_or_why)
        elif box_or_why is not None:
            warnings.append(box_or_why)
    return list(found.values()), warnings


def _candidates(home: HeldDir) -> list[bytes]:
    names, _more = home.names()
    profiles = sorted(name for name in names if name.startswith(_STATE + b"-"))[:MAX_PROFILES]
    return ([_STATE] if _STATE in names else []) + profiles


def _closed(home: HeldDir, state: bytes) -> Optional[str]:
    """Return why what is called as a state directory could not be looked into, None when there is just nothing of OpenClaw in it."""
    seen = home.stat(state)
    if seen is not None and stat.S_ISLNK(seen.st_mode):
        return "a symbolic link, which is not followed. Next: name its target in OPENCLAW_STATE_DIR, or the target's parent in homes"
    try:
        home.open_dir(state + b"/agents").close()
    except FileNotFoundError:
        pass
    except Unreadable as exc:
        return str(exc) if seen is not None and stat.S_ISDIR(seen.st_mode) else None
    return None


def _owner_name(accounts: Sequence[Account], path: str) -> Optional[str]:
    try:
        uid = os.lstat(path).st_uid
    except OSError:
        return None
    return next((account.name for account in accounts if account.uid == uid), None)


def _sandbox(account: Account, home: bytes, state: bytes) -> Sandbox:
    profile = clean(state[len(_STATE) :].decode("utf-8", "replace"), 64) or ""
    shown_state = account.home.rstrip("/") + "/" + state.decode("utf-8", "backslashreplace")
    return Sandbox(
        uid="bare:" + shown_state,
        name="openclaw@%s%s" % (clean(account.name, 64) or "uid%s" % account.uid, profile),
        type="bare",
        status="present",
        phase_source="host",
        agent="openclaw",
        security=Security(sandbox_enabled=False),
        home=HomePlace(root=home, state=state, owner=account.name),
        evidence=("state directory " + shown(shown_state),),
        confirmed=True,
    )


def _stated(accounts: Sequence[Account], path: str, root: str) -> Union[Sandbox, str, None]:
    """Return the Sandbox of OPENCLAW_STATE_DIR, a warning when it cannot be held, None when nothing is in it."""
    real = below(root, path)
    for account in accounts:
        # ~/.openclaw by its full name is the same directory, not a second one.
        if os.path.dirname(path) == account.home and os.path.basename(path).startswith(".openclaw"):
            return None
    try:
        with HeldDir.hold(real.encode("utf-8", "surrogateescape")) as held:
            if not state_below(held, b"."):
                return None
    except Unreadable as exc:
        return "openclaw: OPENCLAW_STATE_DIR: " + str(exc)
    owner = _owner_name(accounts, real)
    return Sandbox(
        uid="bare:" + path,
        name="openclaw@%s" % (clean(owner, 64) or "state-dir"),
        type="bare",
        status="present",
        phase_source="host",
        agent="openclaw",
        security=Security(sandbox_enabled=False),
        home=HomePlace(root=real.encode("utf-8", "surrogateescape"), state=b".", owner=owner),
        evidence=("OPENCLAW_STATE_DIR " + shown(path),),
        confirmed=True,
    )


def probe(
    *, lookups: Lookups, accounts: Accounts, homes: Sequence[Sandbox], containers: Sequence[Sandbox], trouble: Sequence[str] = ()
) -> Runtime:
    """Is OpenClaw here? A home with its state, a binary, or a container that NemoClaw registered for it.

    ``trouble``: what find() could not look into; where there is some, absence is not known. What is just not there does not count.
    """
    trouble = [text for text in trouble if not text.endswith(os.strerror(errno.ENOENT))]
    binary = lookups.binary("openclaw", accounts.known)
    evidence = list(binary.evidence) if binary else []
    evidence += list(dict.fromkeys(text for box in homes for text in box.evidence))[:10]
    evidence += ["container of sandbox %s" % shown(box.name) for box in containers if box.agent == "openclaw"][:10]
    present: Optional[bool] = True if evidence else None
    maybe = [box for box in containers if "openclaw" in (box.image or "").lower() + box.name.lower()]
    if not evidence and maybe:
        evidence.append("container %s looks like it by name or image" % shown(maybe[0].name))
    elif not evidence:
        present = False if accounts.complete and not trouble else None
        tail = "" if accounts.complete else "; not every user's home could be looked into"
        evidence += ["no binary, state directory or container" + tail, *trouble[:3]]
    user = binary.user if binary else (homes[0].home.owner if homes and homes[0].home else None)
    return Runtime("openclaw", present, binary.version if binary else None, binary.path if binary else None, user, tuple(evidence))
