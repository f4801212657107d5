# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""An agent's SQLite transcripts (OpenClaw 2026.8 and later), asked for through a confined child process.

SQLite resolves names itself and needs its own locks, so no descriptor of ours can stand for the database: a fresh
interpreter (sqlitechild/) goes into the sandbox's root, becomes the owner of the file and reads. Fresh rather than
forked: a fork of this process would carry our keys, queue and half-taken locks of other threads into code that works on
hostile bytes. It costs about 40 ms of CPU, so it is started only when the database or its -wal has changed.

Protocol. Request, JSON on stdin: root and directory (descriptors), uid, gid, keep (capabilities), name, budget (bytes), want
([[session, generation, next seq, anchor], …]), rowid, walk (null, or the session id in hex to walk on from), heads.
Answer, frames of kind, length and payload:
  r  index in want, seq, the event's bytes         p  [index, seq, length, sha256, reason]: an event that cannot be taken
  s  [index, generation, next seq, anchor, state]  ends what is told of one session: ok, more, rewritten, or what went wrong
  h  [[session, generation, last seq, entry], …]   sessions as they stand now; entry: [key, title, channel, chat type, status]
  e  {rowid, after, lost, reason, refused}         ends the answer; one without it is no answer
The answer comes from a process that may have been taken over by what it read: it is capped, and every length, type and
order is checked. An anchor is a hash of the last event passed: generation and anchor together tell a rewrite.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import marshal
import os
import signal
import struct
import sys
from dataclasses import dataclass, field
from typing import Any, Optional, Sequence

from ..errors import CommandError, Refused, Unreadable, shown
from ..model import Poison
from ..run import run
from . import sqlitechild
from .opener import HeldDir
from .sqlitechild.frames import HEADER, MAX_EVENT_BYTES, MAX_SEQ, REASON_NO_TRANSCRIPTS, ROW, SIDECARS

BUDGET_BYTES = 4 << 20
OUTPUT_CAP = BUDGET_BYTES + MAX_EVENT_BYTES + (2 << 20)
TIMEOUT_S = 6.0  # the interpreter's start on a busy host; what it does with the database is limited to a second
MAX_WANT = 100
MAX_HEADS = 2000
MAX_SESSIONS = 10_000  # OpenClaw itself keeps 5,000 at the most

# The modules of the child come as compiled code: a package that was never on a disk, whose modules import each other by name.
LOAD = """
import marshal, sys, types
def module(name, code):
    made = sys.modules["sqlitechild" + name] = types.ModuleType("sqlitechild" + name)
    made.__package__, made.__path__ = "sqlitechild", []
    exec(code, made.__dict__)
for part in marshal.loads(sys.stdin.buffer.read(int(sys.argv.pop(1)))):
    module(*part)
"""
_START = LOAD + 'sys.modules["sqlitechild.program"].main()\n'
# CAP_SETGID, CAP_SETUID, CAP_SYS_CHROOT: numbers of linux/capability.h
_NEEDED_CAPABILITIES = 1 << 6 | 1 << 7 | 1 << 18
_CAP_DAC_READ_SEARCH, _CAP_SETPCAP = 1 << 2, 1 << 8
NOBODY = 65534


class NoTranscripts(Unreadable):
    """The database is there (memory, settings) and has no transcripts: OpenClaw of the JSONL era."""


@dataclass(frozen=True)
class Want:
    """A cursor: what is to be read of which session, and what was passed already."""

    session: str
    generation: str = ""
    following: int = 0
    anchor: str = ""


@dataclass(frozen=True)
class Head:
    """How a session stands: its last seq, and what the index says of it: key, title, channel, chat type."""

    session: str
    generation: str
    last: int
    entry: Optional[tuple[str, Optional[str], Optional[str], Optional[str]]]


@dataclass
class Piece:
    """What was read of one session; ``following`` is where its cursor goes. Events are (seq, bytes), seq growing."""

    generation: str = ""
    following: int = 0
    anchor: str = ""
    state: str = ""  # ok | more | rewritten | why it stopped; empty: nothing was told
    events: list[tuple[int, bytes]] = field(default_factory=list)
    poison: list[Poison] = field(default_factory=list)


@dataclass
class Answer:
    pieces: dict[int, Piece]
    heads: list[Head]
    rowid: int
    after: Optional[str]  # the walk goes on behind this session (hex)
    lost: bool  # what has changed could not be told: walk


def look(root: HeldDir, path: bytes) -> Optional[tuple[tuple[int, int, int], ...]]:
    """Return what changes whenever the database at PATH does, None when there is none. No file is opened. Raises Unreadable."""
    parent, _slash, name = path.rpartition(b"/")
    try:
        with root.open_dir(parent) as directory:
            seen = [directory.stat(name + suffix) for suffix in SIDECARS[:2]]
    except FileNotFoundError:
        return None
    if seen[0] is None:
        return None
    # No ctime: SQLite run as root sets the owner of a -wal it opens to what it is.
    return tuple((item.st_ino, item.st_size, item.st_mtime_ns) if item is not None else (0, 0, 0) for item in seen)


def ask(
    root: HeldDir,
    path: bytes,
    *,
    own_home: bool,
    want: Sequence[Want] = (),
    rowid: int = 0,
    walk: Optional[str] = None,
) -> Answer:
    """Have a child read the database at PATH below ROOT. Raises NoTranscripts or Unreadable.

    ``own_home``: ROOT is a directory of this host's own file system, where our own files need no change of root.
    """
    parent, _slash, name = path.rpartition(b"/")
    try:
        directory = root.open_dir(parent)
    except FileNotFoundError:
        raise Unreadable("the database is gone", where=shown(path)) from None
    with directory:
        seen = directory.stat(name)
        if seen is None:
            raise Unreadable("the database is gone", where=shown(path))
        confined, uid, gid, keep = identity(seen.st_uid, seen.st_gid)
        if not confined and not (own_home and seen.st_uid == os.geteuid()):
            raise Unreadable(
                "its SQLite transcripts are not read",
                where=shown(path),
                cause="reading them safely takes CAP_SYS_CHROOT, CAP_SETUID and CAP_SETGID",
                next_step="run as root, or with the service that the daemon role installs",
            )
        request = {
            "root": root.fd if confined else None,
            "directory": directory.fd,
            "uid": uid,
            "gid": gid,
            "keep": keep,
            "name": os.fsdecode(name),
            "budget": BUDGET_BYTES,
            "want": [[item.session, item.generation, item.following, item.anchor] for item in want],
            "rowid": rowid,
            "walk": walk,
            "heads": MAX_HEADS,
        }
        output = child(request, [directory.fd, root.fd] if confined else [directory.fd], shown(path))
    try:
        return _understood(output, want, shown(path))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, struct.error, RecursionError) as exc:
        raise Unreadable("the answer of the SQLite reader is not valid", where=shown(path), cause=type(exc).__name__) from None


def all_sessions(root: HeldDir, path: bytes, *, own_home: bool) -> tuple[set[str], bool]:
    """Return the ids of the sessions in the database, and whether these are all. Raises NoTranscripts or Unreadable."""
    found: set[str] = set()
    walk: Optional[str] = ""
    while walk is not None and len(found) < MAX_SESSIONS:
        answer = ask(root, path, own_home=own_home, walk=walk)
        if answer.after is not None and answer.after <= walk:
            break
        found.update(head.session for head in answer.heads)
        walk = answer.after
    return found, walk is None


def identity(owner: int, group: int) -> tuple[bool, int, int, int]:
    """Return whether a child may be confined, and as which uid, gid and with which capabilities it is to read a file of OWNER."""
    capabilities = capabilities_held()
    if capabilities & _NEEDED_CAPABILITIES != _NEEDED_CAPABILITIES:
        return False, os.geteuid(), os.getegid(), 0
    if owner == 0 and capabilities & _CAP_DAC_READ_SEARCH and capabilities & _CAP_SETPCAP:
        # An agent that is root reads all there is in its sandbox; so does nobody with this one capability, and writes nothing.
        return True, NOBODY, NOBODY, _CAP_DAC_READ_SEARCH
    return True, owner, group, 0


def capabilities_held() -> int:
    """Return our effective capabilities as a set of bits: in some containers root may not change its root."""
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"CapEff:"):
                    return int(line.split()[1], 16)
    except (OSError, ValueError, IndexError):
        pass
    return 0


@functools.lru_cache(maxsize=1)
def program() -> bytes:
    """Return the child's modules, (name, code) each: from wherever this package was loaded, a zipapp included. Raises Unreadable."""
    modules: list[tuple[str, Any]] = [("", "")]
    for name in sqlitechild.MODULES:
        full = sqlitechild.__name__ + "." + name
        spec = importlib.util.find_spec(full)
        loader = spec.loader if spec is not None else None
        if loader is None or not hasattr(loader, "get_code"):
            raise Unreadable("the program that reads SQLite is not at hand", cause="no loader gives its code")
        modules.append(("." + name, loader.get_code(full)))
    return marshal.dumps(modules)


@functools.lru_cache(maxsize=1)
def _packages() -> tuple[str, ...]:
    """Return the directory to find zstandard in, () when it is not installed or not needed (Python 3.14)."""
    try:
        spec = importlib.util.find_spec("zstandard")
    except (ImportError, ValueError):
        spec = None
    return (os.path.dirname(os.path.dirname(spec.origin)),) if spec is not None and spec.origin else ()


def child(request: dict[str, Any], descriptors: list[int], where: str) -> bytes:
    """Run a child on REQUEST with these DESCRIPTORS and return what it answered. Raises Unreadable."""
    code = program()
    # -I -S: no environment, no user site, no site-packages but the one named; -B: nothing is written.
    argv = [sys.executable, "-I", "-S", "-B", "-c", _START, str(len(code)), *_packages()]
    try:
        result = run(
            argv,
            stdin=code + json.dumps(request).encode("ascii"),
            pass_fds=descriptors,
            timeout_s=TIMEOUT_S,
            output_cap=OUTPUT_CAP,
        )
    except CommandError as exc:
        raise Unreadable("its SQLite reader was stopped", where=where, cause=exc.cause) from exc
    if result.rc == 0:
        return result.stdout
    if result.rc in (-signal.SIGALRM, -signal.SIGXCPU, -signal.SIGKILL):
        raise Unreadable("its SQLite reader was stopped", where=where, cause="it took longer than a second")
    last = result.stderr.strip().rsplit(b"\n", 1)[-1]
    raise Unreadable("its SQLite reader ended with %d" % result.rc, where=where, cause=shown(last, 300))


def _understood(output: bytes, want: Sequence[Want], where: str) -> Answer:
    """Return what the frames say. Raises ValueError and its like for anything out of the ordinary, Unreadable for a reason given."""
    answer = Answer({}, [], 0, None, False)
    end: Optional[dict[str, Any]] = None
    at = 0
    view = memoryview(output)
    while at < len(output):
        if end is not None:
            raise ValueError("frames behind the end")
        kind, length = HEADER.unpack_from(output, at)
        at += HEADER.size
        payload = view[at : at + length]
        if len(payload) != length:
            raise ValueError("cut off")
        at += length
        if kind == b"r":
            index, seq = ROW.unpack_from(payload)
            data = bytes(payload[ROW.size :])
            if len(data) > MAX_EVENT_BYTES:
                raise ValueError("event too long")
            piece = _piece(answer, index, want, seq)
            piece.events.append((seq, data))
            piece.following = seq + 1
            continue
        value = json.loads(bytes(payload))
        if kind == b"p":
            index, seq, size, digest, reason = value
            if not (isinstance(size, int) and 0 <= size < MAX_SEQ and _word(digest, 64) and isinstance(reason, str)):
                raise ValueError("poison")
            piece = _piece(answer, index, want, seq)
            piece.poison.append(Poison(seq, size, digest, shown(reason)))
            piece.following = seq + 1
        elif kind == b"s":
            index, generation, following, anchor, state = value
            piece = _piece(answer, index, want, None)
            if not (_word(generation, 80) and _word(anchor, 16) and isinstance(state, str)) or following != piece.following:
                raise ValueError("session")
            piece.generation, piece.anchor, piece.state = generation, anchor, shown(state) or "unknown"
        elif kind == b"h":
            answer.heads.extend(_head(*item) for item in value)
            if len(answer.heads) > MAX_HEADS:
                raise ValueError("too many sessions")
        elif kind == b"e":
            end = value
        else:
            raise ValueError("kind")
    if end is None:
        raise ValueError("no end")
    if end["reason"] is not None:
        kind_of_error = NoTranscripts if end["reason"] == REASON_NO_TRANSCRIPTS else Refused if end.get("refused") is True else Unreadable
        raise kind_of_error("its SQLite database is not read", where=where, cause=shown(str(end["reason"]), 300))
    answer.rowid, answer.after, answer.lost = end["rowid"], end["after"], bool(end["lost"])
    if not isinstance(answer.rowid, int) or not (answer.after is None or isinstance(answer.after, str)):
        raise ValueError("end")
    return answer


def _piece(answer: Answer, index: Any, want: Sequence[Want], seq: Any) -> Piece:
    """Return the piece of session INDEX, still open, that may take SEQ next. Raises ValueError."""
    if not isinstance(index, int) or not 0 <= index < len(want):
        raise ValueError("index")
    piece = answer.pieces.setdefault(index, Piece(following=want[index].following))
    if piece.state or (seq is not None and not (isinstance(seq, int) and piece.following <= seq < MAX_SEQ)):
        raise ValueError("order")
    return piece


def _head(session: Any, generation: Any, last: Any, entry: Any) -> Head:
    if not (isinstance(session, str) and 0 < len(session.encode("utf-8")) <= 255 and _word(generation, 80)):
        raise ValueError("session")
    if not isinstance(last, int) or not 0 <= last < MAX_SEQ:
        raise ValueError("seq")
    if entry is None:
        return Head(session, generation, last, None)
    key, title, channel, chat_type, _status = (item if item is None or isinstance(item, str) else "" for item in entry)
    if not key:
        return Head(session, generation, last, None)
    return Head(session, generation, last, (key[:500], title and title[:300], channel and channel[:60], chat_type and chat_type[:60]))


def _word(value: Any, most: int) -> bool:
    return isinstance(value, str) and len(value) <= most and value.isascii() and value.isprintable()
