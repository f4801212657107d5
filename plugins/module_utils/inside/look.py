# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""What a sandbox would be to a daemon inside it: what makes that impossible, and what would let the agent tamper with it.

Looks through the held root of the container's first process and writes nothing. One program is run in the sandbox: its
Python, as nobody, to tell its version. Sources: reference/openshell.md §2 (containers by era), §5 (proxy and authorities).
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from dataclasses import dataclass, replace
from typing import Any, Optional, Sequence, Union

from .. import holding, snapshot
from ..config import Settings
from ..discover import discover
from ..dockerapi import Engine, EngineError, field
from ..dockerexec import ExecEngine
from ..errors import ConfigError, Unreadable, shown
from ..model import ContainerPlace, Sandbox
from ..read.opener import HeldDir
from ..read.routes import HeldSandbox

PLACE = b"opt/clawmetry"
# What OpenShell 0.0.x gives its sandboxes; a daemon takes neither from its environment.
OPENSHELL_CA = "/etc/openshell-tls/ca-bundle.pem"
OPENSHELL_PROXY = "http://10.200.0.1:3128"

PYTHONS = (b"usr/bin/python3", b"usr/local/bin/python3", *(b"usr/bin/python3.%d" % minor for minor in range(20, 8, -1)))
OLDEST = (3, 9)
NOBODY = "65534:65534"
_ASK = """
import ctypes, json, os, platform, sqlite3, ssl, sys, zlib
ctypes.CDLL("libgcc_s.so.1")
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION")
except (ValueError, OSError):
    libc = None
print(json.dumps([sys.version_info[:3], platform.machine(), libc, os.path.dirname(os.__file__)]))
"""
MAX_ANSWER = 4096
MAX_LINKS = 20
_MACHINE = re.compile(r"[a-z0-9_]{1,20}")
_GLIBC = re.compile(r"glibc (\d{1,3})\.(\d{1,3})")


@dataclass(frozen=True)
class Python:
    """The sandbox's interpreter: its file behind all links, and what it said of itself."""

    path: bytes  # in the sandbox, relative to its root
    version: tuple[int, ...]  # (3, 11, 2)
    machine: str  # x86_64 | aarch64 | ...
    glibc: tuple[int, int]
    library: bytes  # directory of the standard library, relative to the root

    @property
    def tag(self) -> str:
        """What packages for it are told apart by: ``3.11-x86_64-2.36``."""
        return "%d.%d-%s-%d.%d" % (self.version[0], self.version[1], self.machine, self.glibc[0], self.glibc[1])


@dataclass(frozen=True)
class Look:
    """One sandbox. With ``problems`` it is impossible; with ``hazards`` the agent can tamper with the daemon."""

    name: str
    container: str
    problems: tuple[str, ...] = ()
    hazards: tuple[str, ...] = ()
    installed: bool = False
    python: Optional[Python] = None
    user: int = 0
    group: int = 0
    proxy: str = ""
    ca_file: str = ""


class NoSuchSandbox(ConfigError):
    """A name that no sandbox in a container has."""


def candidates(settings: Settings, wanted: Sequence[str] = ()) -> list[Sandbox]:
    """Return the sandboxes of containers that are named (by name, id, or container id), or all confirmed ones.

    Raises NoSuchSandbox when a name is nobody's, ConfigError when it is that of several, EngineError when none can be asked.
    """
    Engine(settings.docker_host).version()
    found = discover(**settings.discovery)
    boxes = [box for box in snapshot.reported(found.sandboxes, holding.survey_all(settings, found)) if box.container is not None]
    if not wanted:
        return boxes
    chosen: list[Sandbox] = []
    for name in wanted:
        named = [box for box in boxes if name in (box.name, box.id) or _is_container(box, name)]
        if len(named) != 1:
            what = "no sandbox %s runs in a container here" if not named else "several sandboxes are called %s"
            ids = ", ".join("%s (%s)" % (shown(box.name, 60), _container_id(box)[:12]) for box in named or boxes)
            kind = ConfigError if named else NoSuchSandbox
            raise kind(what % shown(name, 60), cause="there are %s" % (ids or "none"), next_step="name one by its container id")
        chosen += [box for box in named if box not in chosen]
    return chosen


def _container_id(box: Sandbox) -> str:
    return box.container.container_id if box.container is not None else ""


def _is_container(box: Sandbox, name: str) -> bool:
    return len(name) >= 12 and _container_id(box).startswith(name)


def hold(box: Sandbox, settings: Settings) -> HeldSandbox:
    """Hold the sandbox's root by its first process, and in no other way. Raises Unreadable."""
    return holding.hold(box, replace(settings, routes=("proc",)))


def look(box: Sandbox, settings: Settings) -> Look:
    """Look at one sandbox. Never raises for what it meets: that is a problem, with its reason."""
    seen = Look(name=box.name, container=_container_id(box))
    place = box.container
    if place is None or place.pod is not None:
        return _no(seen, "it is no container of its own (a pod, or not seen)")
    if place.engine != settings.docker_host:
        return _no(seen, "it belongs to the engine at %s, not to the one at %s" % (shown(place.engine), settings.docker_host))
    if not place.running:
        return _no(seen, "it is not running; start it first")
    engine = ExecEngine(place.engine)
    try:
        config = engine.inspect(place.container_id)
        held = hold(box, settings)
    except Unreadable as exc:
        return _no(seen, "its root cannot be held: %s (a remote engine, or not root?)" % exc)
    with held:
        try:
            return _inside(seen, place, held, engine, config)
        except (Unreadable, OSError) as exc:
            return _no(seen, shown(str(exc), 400))


def _no(seen: Look, *problems: str) -> Look:
    return replace(seen, problems=seen.problems + problems)


def _uid_map(process: Union[int, str]) -> list[bytes]:
    with open("/proc/%s/uid_map" % process, "rb") as stream:
        return stream.read(65536).split()


def _inside(seen: Look, place: ContainerPlace, held: HeldSandbox, engine: ExecEngine, config: Any) -> Look:
    root = held.root
    problems: list[str] = []
    hazards: list[str] = []
    if _uid_map(place.pid) != _uid_map("self"):
        problems.append("its users are not the host's (a user namespace), which this role does not support")
    if field(config, "HostConfig", "ReadonlyRootfs"):
        problems.append("its root file system is read-only, so nothing can be put into it")
    if field(config, "HostConfig", "NetworkMode") == "none":
        problems.append("it has no network of its own, so a program that its supervisor did not start has no way out (OpenShell 0.1)")
    if not _is_directory(root, b"opt"):
        problems.append("it has no directory /opt")
    elif _is_directory(root, PLACE) and not _is_ours(root):
        problems.append("it has a directory /%s that is not ours; remove it first" % PLACE.decode())
    agent = _agent(held)
    if agent is None:
        problems.append("no OpenClaw state directory is in it, so it is not known which user the agent is; let the agent run once")
        agent = (0, 0)
    elif agent[0] == 0:
        hazards.append("its agent is root")
    dropped = [str(name).upper() for name in field(config, "HostConfig", "CapDrop") or ()]
    if agent[0] and {"ALL", "CAP_DAC_OVERRIDE", "DAC_OVERRIDE"} & set(dropped):
        hazards.append("its root may not read the agent's files (CAP_DAC_OVERRIDE is dropped), so the daemon has to be the agent's user")
    why_not = unprotected(root, b"opt") if _is_directory(root, b"opt") else ""
    if why_not:
        hazards.append("a write-protected place is missing: " + why_not)
    told = _python(root, engine, seen.container)
    python = told if isinstance(told, Python) else None
    if isinstance(told, str):
        problems.append(told)
    else:
        for path in (told.path, told.library):
            why_not = unprotected(root, path)
            if why_not:
                hazards.append("its Python can be changed by the agent: " + why_not)
                break
    is_openshell = _is_file(root, OPENSHELL_CA.encode()[1:])
    return replace(
        seen,
        problems=seen.problems + tuple(problems),
        hazards=tuple(hazards),
        installed=_is_ours(root),
        python=python,
        # Where the agent can tamper with the program, it must not gain root's rights by that.
        user=agent[0] if hazards else 0,
        group=agent[1] if hazards else 0,
        proxy=OPENSHELL_PROXY if is_openshell else "",
        ca_file=OPENSHELL_CA if is_openshell else "",
    )


def _is_ours(root: HeldDir) -> bool:
    return _is_file(root, PLACE + b"/clawmetry.pyz") or _is_directory(root, PLACE + b"/venv")


def _agent(held: HeldSandbox) -> Optional[tuple[int, int]]:
    """Return uid and gid of whoever owns the first state directory, or OpenShell's workspace."""
    for path in (*(state.path for state in held.states), b"sandbox"):
        try:
            with held.root.open_dir(path) as directory:
                seen = os.fstat(directory.fd)
                return seen.st_uid, seen.st_gid
        except (FileNotFoundError, Unreadable):
            continue
    return None


def _lstat(root: HeldDir, path: bytes) -> Optional[os.stat_result]:
    parent, _slash, name = path.rpartition(b"/")
    try:
        with root.open_dir(parent or b".") as directory:
            return directory.stat(name)
    except (FileNotFoundError, Unreadable):
        return None


def _is_file(root: HeldDir, path: bytes) -> bool:
    seen = _lstat(root, path)
    return seen is not None and stat.S_ISREG(seen.st_mode)


def _is_directory(root: HeldDir, path: bytes) -> bool:
    seen = _lstat(root, path)
    return seen is not None and stat.S_ISDIR(seen.st_mode)


def resolve(root: HeldDir, path: bytes) -> tuple[bytes, list[tuple[bytes, os.stat_result]]]:
    """Return the real path of PATH below ROOT, and each directory, link and file on the way with its lstat.

    Links are walked here, one by one, within the root. Raises FileNotFoundError, Unreadable.
    """
    waiting = path.split(b"/")
    real: list[bytes] = []
    way = [(b"", os.fstat(root.fd))]
    links = 0
    while waiting:
        name = waiting.pop(0)
        if name in (b"", b"."):
            continue
        if name == b"..":
            del real[-1:]
            continue
        with root.open_dir(b"/".join(real) or b".") as directory:
            seen = directory.stat(name)
            if seen is None:
                raise FileNotFoundError(errno.ENOENT, "not in the sandbox", "/" + shown(path))
            way.append((b"/".join((*real, name)), seen))
            if not stat.S_ISLNK(seen.st_mode):
                real.append(name)
                continue
            target = os.readlink(name, dir_fd=directory.fd)
        links += 1
        if links > MAX_LINKS:
            raise Unreadable("too many links", where=shown(path))
        if target.startswith(b"/"):
            real = []
        waiting = target.split(b"/") + waiting
    return b"/".join(real), way


def unprotected(root: HeldDir, path: bytes) -> str:
    """Return why somebody else than root could change what PATH names, "" when nobody could."""
    for place, seen in resolve(root, path)[1]:
        if seen.st_uid != 0:
            return "/%s belongs to uid %d" % (shown(place), seen.st_uid)
        if seen.st_mode & 0o022 and not stat.S_ISLNK(seen.st_mode):
            return "/%s can be written by others (mode %04o)" % (shown(place), stat.S_IMODE(seen.st_mode))
    return ""


def _python(root: HeldDir, engine: ExecEngine, container: str) -> Union[Python, str]:
    """Return the sandbox's Python, or why there is none to use. One that only root can change is preferred."""
    found: list[bytes] = []
    for candidate in PYTHONS:
        try:
            real, way = resolve(root, candidate)
        except (FileNotFoundError, Unreadable):
            continue
        if stat.S_ISREG(way[-1][1].st_mode) and real not in found:
            found.append(real)
    if not found:
        return "it has no python3 in /usr/bin or /usr/local/bin"
    found.sort(key=lambda path: bool(unprotected(root, path)))
    why = ""
    for path in found:
        try:
            with engine.run(container, ("/" + os.fsdecode(path), "-IBSc", _ASK), 20.0, NOBODY) as read:
                answer = _read(read)
        except EngineError as exc:
            return "its Python could not be asked: %s" % exc
        python = parse_answer(path, answer)
        if isinstance(python, Python):
            return python
        why = why or python
    return why


def _read(read: Any) -> bytes:
    answer = b""
    while len(answer) <= MAX_ANSWER:
        piece = read(MAX_ANSWER)
        if not piece:
            break
        answer += piece
    return answer


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("/") and value.isascii() and value.isprintable()


def parse_answer(path: bytes, answer: bytes) -> Union[Python, str]:
    """Return what a sandbox's Python says of itself, or why it will not do. Sample:

    ``[[3, 11, 2], "x86_64", "glibc 2.36", "/usr/lib/python3.11"]``
    """
    name = "/" + shown(path)
    try:
        version, machine, libc, library = json.loads(answer)
        numbers = tuple(map(int, version))
    except (ValueError, TypeError, RecursionError):
        return "%s does not run, or lacks ctypes, ssl, sqlite3, zlib or libgcc" % name
    if len(numbers) != 3 or not 0 <= min(numbers) <= max(numbers) < 1000 or not _is_path(library):
        return "%s gave an answer that makes no sense" % name
    if numbers[:2] < OLDEST:
        return "%s is %d.%d, and the daemon needs 3.9 or newer" % (name, *numbers[:2])
    glibc = _GLIBC.fullmatch(libc) if isinstance(libc, str) else None
    if glibc is None:
        return "%s does not use glibc, and the packages are built for it" % name
    if not isinstance(machine, str) or not _MACHINE.fullmatch(machine):
        return "%s tells no machine" % name
    return Python(path, numbers, machine, (int(glibc.group(1)), int(glibc.group(2))), os.fsencode(os.path.normpath(library))[1:])
