# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""What ClawMetry's own client left on this host: its home ~/.clawmetry, its processes and its unit. Reads only.

Source: reference/clawmetry.md §3 "Files", §6 "Linux service" (clawmetry 0.12.937). Cursors are line counts:
physical lines of the file under its own name, blank and unparsable ones included.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Iterator, Mapping, Optional, Sequence, Union

from .discover.accounts import read_accounts
from .errors import ConfigError, shown

DIRECTORY = ".clawmetry"
UNIT = "clawmetry-sync.service"
USER_UNIT = ".config/systemd/user/" + UNIT
MIRRORS = ("nemoclaw-mirror", "docker-mirror")
MAX_CONFIG_BYTES = 1 << 20
MAX_STATE_BYTES = 64 << 20
MAX_CURSORS = 200_000
MAX_MIRRORED = 200_000
MAX_PROCESSES = 100_000

CursorKey = tuple[str, str, str]  # scope ("host", "mirror", "sandbox:<name>"), agent, file name


@dataclass(frozen=True)
class Home:
    """A connected home. Secrets are kept out of its repr."""

    path: str  # the .clawmetry directory
    uid: int
    node_id: Optional[str] = None
    api_key: Optional[str] = field(default=None, repr=False)
    key_text: Optional[str] = field(default=None, repr=False)
    endpoint: Optional[str] = None
    opted_out: Optional[str] = None  # why nothing may go to the cloud
    connected: bool = False  # is there a config.json?


@dataclass(frozen=True)
class Cursors:
    """How many lines of each file were sent, and when that was last written down (YYYYMMDDHHMMSS, UTC)."""

    lines: Mapping[CursorKey, int]
    as_of: str = ""


def find_homes(*, root: str = "/", homes: Union[str, Sequence[str]] = "auto", env: Mapping[str, str], euid: int) -> list[str]:
    """Return the .clawmetry directories of the accounts we may look into that hold a configuration or an opt-out."""
    found = []
    for account in read_accounts(root=root, homes=homes, env=env, euid=euid).known:
        path = os.path.join(account.path, DIRECTORY)
        if any(os.path.lexists(os.path.join(path, name)) for name in ("config.json", "nocloud", "sync.pid")):
            found.append(path)
    return found


def read_home(path: str) -> Home:
    """Return what the home at PATH says. Raises ConfigError when a file of it is not to be believed."""
    raw = _read(path, "config.json", MAX_CONFIG_BYTES)
    try:
        uid = os.stat(path).st_uid
    except OSError as exc:
        raise ConfigError("cannot read the home", where=shown(path), cause=os.strerror(exc.errno or 0)) from None
    config = _object(path, "config.json", raw)
    texts = {}
    for name in ("node_id", "api_key", "encryption_key", "endpoint"):
        value = config.get(name)
        if value is not None and (not isinstance(value, str) or len(value) > 4096 or not value.isprintable()):
            raise ConfigError("%s is no printable text" % name, where=shown(os.path.join(path, "config.json")))
        texts[name] = value.strip() or None if value else None
    opted_out = "the marker nocloud" if os.path.lexists(os.path.join(path, "nocloud")) else None
    if opted_out is None and config.get("local_only"):
        opted_out = "local_only in config.json"
    return Home(
        path,
        uid,
        texts["node_id"],
        texts["api_key"],
        texts["encryption_key"],
        texts["endpoint"].rstrip("/") if texts["endpoint"] else None,
        opted_out,
        raw is not None,
    )


def read_cursors(path: str) -> Cursors:
    """Return the line cursors of the home at PATH; none when there is no state. Raises ConfigError on a damaged one."""
    raw = _read(path, "sync-state.json", MAX_STATE_BYTES)
    state = _object(path, "sync-state.json", raw)
    mirrored = _mirrored(path)
    lines: dict[CursorKey, int] = {}
    for name, count in _counts(state.get("last_event_ids")):
        lines[("mirror", "", name) if name in mirrored else ("host", "main", name)] = count
    for name, count in _counts(state.get("sandbox_session_cursors")):
        # "<sandbox>/<agent>/<file>", before 2026-08 "<sandbox>/<file>" of the agent main.
        parts = name.split("/")
        if len(parts) in (2, 3):
            lines[("sandbox:" + parts[0], parts[1] if len(parts) == 3 else "main", parts[-1])] = count
    if len(lines) > MAX_CURSORS:
        raise ConfigError("sync-state.json has more than %d cursors" % MAX_CURSORS, where=shown(path))
    return Cursors(lines, digits_of(state.get("last_sync")))


def digits_of(stamp: Any) -> str:
    """Return YYYYMMDDHHMMSS in UTC of an ISO time, "" when it is none."""
    try:
        moment = datetime.fromisoformat(str(stamp).replace("Z", "+00:00"))
        # A time without its zone may be hours off: rather none.
        return moment.astimezone(timezone.utc).strftime("%Y%m%d%H%M%S") if moment.tzinfo else ""
    except (ValueError, OverflowError, OSError):
        return ""


def _counts(value: Any) -> Iterator[tuple[str, int]]:
    for name, count in value.items() if isinstance(value, dict) else ():
        if isinstance(count, int) and not isinstance(count, bool) and 0 < count < 1 << 40 and len(name) < 4096:
            yield name, count


def _mirrored(path: str) -> frozenset[str]:
    """Return the names of the transcripts that were copied out of sandboxes: their cursors are not the host's."""
    names: set[str] = set()
    for mirror in MIRRORS:
        for _place, _directories, files in os.walk(os.path.join(path, mirror)):
            names.update(name for name in files if ".jsonl" in name)
            if len(names) > MAX_MIRRORED:
                break
    return frozenset(names)


def _object(path: str, name: str, raw: Optional[bytes]) -> dict[str, Any]:
    try:
        value = json.loads(raw) if raw is not None else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        step = "move it away to have everything sent once more" if name == "sync-state.json" else "repair it"
        raise ConfigError("%s is not a JSON object" % name, where=shown(os.path.join(path, name)), next_step=step)
    return value


def _read(path: str, name: str, most: int) -> Optional[bytes]:
    """Return a file of a home, None when it is absent. A regular file of the home's owner, reached without links."""
    where = shown(os.path.join(path, name))
    try:
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigError("cannot open the home", where=shown(path), cause=os.strerror(exc.errno or 0)) from None
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=held)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigError("cannot read it", where=where, cause=os.strerror(exc.errno or 0)) from None
    finally:
        owner = os.fstat(held).st_uid
        os.close(held)
    with os.fdopen(fd, "rb") as stream:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode) or seen.st_uid not in (0, owner, os.geteuid()):
            raise ConfigError("it is not a regular file of the home's owner", where=where)
        data = stream.read(most + 1)
    if len(data) > most:
        raise ConfigError("it is larger than %d bytes" % most, where=where)
    return data


def is_client(argv: bytes) -> bool:
    """Is this command line (NUL-separated) ClawMetry's own daemon? ``python3 -m clawmetry.sync``, ``…/clawmetry/sync.py``."""
    words = argv.split(b"\0")
    if len(words) < 2 or b"python" not in words[0].rsplit(b"/", 1)[-1].lower():
        return False
    return (b"-m" in words and b"clawmetry.sync" in words) or any(word.endswith(b"/clawmetry/sync.py") for word in words[1:3])


def running_pid(home: str, proc: str = "/proc") -> Optional[int]:
    """Return the pid in sync.pid when that process really is the old daemon, else None."""
    try:
        text = (_read(home, "sync.pid", 64) or b"").strip()
    except ConfigError:
        return None
    if not text.isdigit() or len(text) > 10:
        return None
    return int(text) if is_client(_small(os.path.join(proc, text.decode(), "cmdline"))) else None


def processes(proc: str = "/proc") -> list[tuple[int, bool]]:
    """Return (pid, does it live in another pid namespace, as in a container) of every old daemon there is."""
    try:
        names = [name for name in os.listdir(proc) if name.isdigit()][:MAX_PROCESSES]
    except OSError:
        return []
    found = []
    for name in names:
        if is_client(_small(os.path.join(proc, name, "cmdline"))):
            found.append((int(name), _namespace(proc, name) != _namespace(proc, "self")))
    return found


def _namespace(proc: str, pid: str) -> Optional[str]:
    try:
        return os.readlink(os.path.join(proc, pid, "ns", "pid"))
    except OSError:
        return None


def _small(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(4096)
    except OSError:
        return b""
