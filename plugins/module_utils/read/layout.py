# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Where OpenClaw keeps its files below a held root: state directories, agents, transcripts, memory files.

Pure names plus bounded listings through the opener; no file is read here. Sources:
reference/openclaw.md §1, reference/nemoclaw.md §4 (both NemoClaw layouts).
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from typing import Optional

from ..errors import Unreadable
from .opener import HeldDir

# Directories of a container that may hold .openclaw, .openclaw-data (NemoClaw until April 2026,
# with links from .openclaw that we never follow) or .openclaw-<profile>.
BASES = (b"sandbox", b"root", b"data", b"app", b"home/node", b"home/openclaw")
# Images of plain Docker set-ups mount the state directory itself here.
DIRECT = (b"data", b"app")
MAX_HOMES = 200
MAX_AGENTS = 500
# Each costs a look per pass and half a kilobyte.
MAX_SESSION_FILES = 20_000

MEMORY_NAMES = (
    b"MEMORY.md",
    b"SOUL.md",
    b"IDENTITY.md",
    b"USER.md",
    b"AGENTS.md",
    b"TOOLS.md",
    b"HEARTBEAT.md",
    b"BOOTSTRAP.md",
    b"BOOT.md",
)
MAX_MEMORY_FILES = 1000

_SESSION = re.compile(rb"(?P<sid>[^/]+?)\.jsonl(?:\.(?P<kind>reset|bak|deleted)\.(?P<ts>[^/]+))?", re.DOTALL)
# Prompts and tool schemas of every turn, rewritten whole: not a transcript (reference/openclaw.md §2).
_NOT_TRANSCRIPTS = (b".trajectory", b".checkpoint")
WARMUP_PREFIX = b"nemoclaw-onboard-warmup-"


@dataclass(frozen=True)
class SessionName:
    """What a file name in a sessions directory says: ``f8344fbd.jsonl.reset.2026-11-21T19-43-04.582Z``."""

    session: bytes
    kind: str  # live | reset | bak | deleted
    stamp: bytes = b""

    @property
    def packed(self) -> bool:
        """Is it compressed, as what OpenClaw deletes from its database is left?"""
        return self.stamp.endswith(b".zst")

    @property
    def order(self) -> tuple[bytes, int, bytes]:
        """Sort key: the archived parts of a session by their stamp, then the live file."""
        return (self.session, 1 if self.kind == "live" else 0, self.stamp)


@dataclass(frozen=True)
class OtherAgent:
    """One of NemoClaw's agents that are not OpenClaw. Its transcripts are not read: that they are there is told, and nothing is opened."""

    agent: str  # as NemoClaw's registry calls it
    place: bytes  # its directory in a sandbox
    databases: tuple[bytes, ...]  # where its transcripts are kept, the newer layout first; () = not known


# Source: reference/nemoclaw.md §4 (July 2026). Beside these lie keys and tokens.
OTHER_AGENTS = (
    OtherAgent("hermes", b"sandbox/.hermes", (b"sandbox/.hermes/runtime/state.db", b"sandbox/.hermes/state.db")),
    OtherAgent("langchain-deepagents-code", b"sandbox/.deepagents", ()),
)


def parse_session_name(name: bytes) -> Optional[SessionName]:
    """Return what NAME says, None for anything that is not a transcript (locks, repairs, trajectories)."""
    match = _SESSION.fullmatch(name)
    if match is None:
        return None
    session, kind, stamp = match.group("sid"), match.group("kind"), match.group("ts") or b""
    if any(mark in session for mark in _NOT_TRANSCRIPTS) or stamp.endswith((b".tmp", b".lock")):
        return None
    return SessionName(session, kind.decode("ascii") if kind else "live", stamp)


@dataclass(frozen=True)
class Agent:
    """One agent's directory of transcripts, relative to the held root."""

    agent: bytes
    sessions: bytes  # path of .../agents/<agent>/sessions
    database: bytes  # path of .../agents/<agent>/agent/openclaw-agent.sqlite, existing or not


@dataclass(frozen=True)
class State:
    """One OpenClaw state directory below a held root."""

    path: bytes
    agents: tuple[Agent, ...]
    workspaces: tuple[bytes, ...]


def _subdirs(root: HeldDir, path: bytes, limit: int) -> list[bytes]:
    """Return the names of PATH's entries, sorted; [] when it is absent, a link, or unreadable."""
    try:
        with root.open_dir(path) as held:
            names, _more = held.names(limit)
    except (FileNotFoundError, Unreadable):
        return []
    return sorted(names)


def _agent_names(state: HeldDir) -> list[bytes]:
    """Return the names below agents/, without plain files: a note somebody left there is no agent."""
    try:
        with state.open_dir(b"agents") as held:
            names, _more = held.names(MAX_AGENTS)
            kinds = [(name, held.stat(name)) for name in names]
    except (FileNotFoundError, Unreadable):
        return []
    return sorted(name for name, seen in kinds if seen is not None and not is_file(seen))


def _join(*parts: bytes) -> bytes:
    return b"/".join(part for part in parts if part not in (b"", b"."))


def _state_at(root: HeldDir, path: bytes) -> Optional[State]:
    """Return the state directory at PATH, None when nothing of OpenClaw is there."""
    try:
        with root.open_dir(path) as held:
            names, _more = held.names(10_000)
            agents = []
            for agent in _agent_names(held):
                agents.append(
                    Agent(
                        agent,
                        _join(path, b"agents", agent, b"sessions"),
                        _join(path, b"agents", agent, b"agent", b"openclaw-agent.sqlite"),
                    )
                )
    except (FileNotFoundError, Unreadable):
        return None
    workspaces = tuple(_join(path, name) for name in sorted(names) if name == b"workspace" or name.startswith(b"workspace-"))
    if not agents and not workspaces:
        return None
    return State(path, tuple(agents), workspaces)


def find_states(root: HeldDir) -> tuple[State, ...]:
    """Return every OpenClaw state directory below a container's root, in a stable order."""
    bases = list(BASES)
    for name in _subdirs(root, b"home", MAX_HOMES):
        if b"home/" + name not in bases:
            bases.append(b"home/" + name)
    found: list[State] = []
    for base in bases:
        for name in _subdirs(root, base, 10_000):
            if name == b".openclaw" or name.startswith(b".openclaw-"):
                state = _state_at(root, _join(base, name))
                if state is not None:
                    found.append(state)
        if base in DIRECT:
            state = _state_at(root, base)
            if state is not None and state.agents:
                found.append(state)
    return tuple(found)


def find_other(root: HeldDir) -> Optional[tuple[OtherAgent, Optional[bytes]]]:
    """Return which other agent of NemoClaw's has a directory in a sandbox, and the database it keeps its transcripts in, if any yet."""
    for other in OTHER_AGENTS:
        if _kind(root, other.place) == stat.S_IFDIR:
            return other, next((path for path in other.databases if _kind(root, path) == stat.S_IFREG), None)
    return None


def _kind(root: HeldDir, path: bytes) -> Optional[int]:
    parent, _slash, name = path.rpartition(b"/")
    try:
        with root.open_dir(parent) as held:
            seen = held.stat(name)
    except (FileNotFoundError, Unreadable):
        return None
    return None if seen is None else stat.S_IFMT(seen.st_mode)


def state_below(root: HeldDir, path: bytes) -> tuple[State, ...]:
    """Return the state directory at PATH below a held home, as a tuple of one or none."""
    state = _state_at(root, path)
    return () if state is None else (state,)


def session_files(held: HeldDir) -> tuple[list[tuple[bytes, SessionName]], bool]:
    """Return (name, meaning) of each transcript in a held sessions directory, in reading order, and "there were more"."""
    # Locks, repairs and trajectories lie beside the transcripts.
    names, more = held.names(2 * MAX_SESSION_FILES)
    found = []
    for name in names:
        meaning = parse_session_name(name)
        if meaning is not None:
            found.append((name, meaning))
    found.sort(key=lambda item: item[1].order)
    return found[:MAX_SESSION_FILES], more or len(found) > MAX_SESSION_FILES


def memory_files(root: HeldDir, workspace: bytes) -> list[tuple[bytes, os.stat_result]]:
    """Return (path below the workspace, lstat) of the memory files that are regular files, in a stable order."""
    found: list[tuple[bytes, os.stat_result]] = []
    try:
        with root.open_dir(workspace) as held:
            present, _more = held.names(10_000)
            wanted = [name for name in MEMORY_NAMES if name in present]
            for name in wanted:
                seen = held.stat(name)
                if seen is not None and is_file(seen):
                    found.append((name, seen))
            try:
                with held.open_dir(b"memory") as days:
                    names, _more = days.names(10_000)
                    for name in sorted(names)[-MAX_MEMORY_FILES:]:
                        seen = days.stat(name) if name.endswith(b".md") else None
                        if seen is not None and is_file(seen):
                            found.append((b"memory/" + name, seen))
            except (FileNotFoundError, Unreadable):
                pass
    except (FileNotFoundError, Unreadable):
        return []
    return found


def is_file(seen: os.stat_result) -> bool:
    """Is it a regular file? Links, devices and the like are no sessions, whatever they are called."""
    return (seen.st_mode & 0o170000) == 0o100000
