# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a power cut may leave of a directory, made from the system calls of the program that wrote there.

The program runs under strace. A file's content counts as on the disk from its fsync on, a name from the fsync of its
directory on; everything since may be there, or not, or be there in part, in any order. ``Disk`` replays the calls and
gives such states of the directory at any point.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator, Optional, Sequence

SECTOR = 512
CALLS = "openat,write,pwrite64,fsync,fdatasync,ftruncate,rename,renameat,renameat2,unlink,unlinkat"
_LINE = re.compile(r"(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


@dataclass(frozen=True)
class Call:
    """One call that changed the directory, or wrote to the program's own marks: (what, name, other name or None, offset, data)."""

    what: str  # open | write | sync | truncate | rename | unlink | mark
    name: str
    to: str = ""
    offset: int = 0
    data: bytes = b""


def traced(argv: Sequence[str], directory: Path, marks: Path, log: Path, env: Optional[dict[str, str]] = None) -> list[Call]:
    """Run ARGV; return what it did below DIRECTORY, with each line that it wrote to the file MARKS in its place."""
    strace = ["strace", "-f", "-xx", "-s", "1000000", "-e", "trace=" + CALLS, "-e", "signal=none", "-o", str(log)]
    done = subprocess.run([*strace, *argv], stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False, env=env)
    if done.returncode != 0:
        raise AssertionError("rc %d: %s" % (done.returncode, done.stderr.decode(errors="replace")[-2000:]))
    return list(_calls(log.read_text().splitlines(), os.fsencode(directory), os.fsencode(marks)))


def _strings(arguments: str) -> list[bytes]:
    if any(cut for _text, cut in _STRING.findall(arguments)):
        raise AssertionError("strace has cut a string")
    return [bytes.fromhex(text.replace("\\x", "")) for text, _cut in _STRING.findall(arguments)]


def _calls(lines: list[str], directory: bytes, marks: bytes) -> Iterator[Call]:
    """Files are told apart by their descriptors, so an open that is not ours frees a number for nobody."""
    opened: dict[int, bytes] = {}

    def local(path: bytes) -> Optional[str]:
        if path == directory:
            return "."
        return os.fsdecode(path[len(directory) + 1 :]) if path.startswith(directory + b"/") else None

    for line in lines:
        match = _LINE.match(line)
        if match is None or int(match.group(3)) < 0:
            if "unfinished" in line or "resumed" in line:
                raise AssertionError("two threads at once: " + line[:100])
            continue
        call, arguments, result = match.group(1), match.group(2), int(match.group(3))
        strings = _strings(arguments)
        if call == "openat":
            opened[result] = strings[0]
            name = local(strings[0])
            if name is not None and "O_CREAT" in arguments:
                yield Call("open", name)
            continue
        if call in ("rename", "renameat", "renameat2", "unlink", "unlinkat"):
            names = [local(path) for path in strings]
            if names[0] is not None:
                yield Call("unlink" if call.startswith("unlink") else "rename", names[0], names[-1] or "")
            continue
        number = int(arguments.split(",", 1)[0].rstrip(")"))
        path = opened.get(number, b"")
        if path == marks:
            yield Call("mark", strings[0].decode())
            continue
        name = local(path)
        if name is None:
            continue
        if call in ("fsync", "fdatasync"):
            yield Call("sync", name)
        elif call == "ftruncate":
            yield Call("truncate", name, offset=int(arguments.split(",")[1]))
        elif call == "pwrite64":
            yield Call("write", name, offset=int(arguments.rsplit(",", 1)[1]), data=strings[0][:result])
        elif call == "write":
            raise AssertionError("a write without its offset to " + name)


@dataclass
class _File:
    durable: bytes = b""
    pending: list[Call] = field(default_factory=list)

    def after(self, calls: Sequence[Call]) -> bytes:
        data = bytearray(self.durable)
        for call in calls:
            if call.what == "truncate":
                del data[call.offset :]
                data.extend(bytes(call.offset - len(data)))
            else:
                data.extend(bytes(max(0, call.offset - len(data))))
                data[call.offset : call.offset + len(call.data)] = call.data
        return bytes(data)


class Disk:
    """The directory as the calls so far have left it, in memory and on the disk."""

    def __init__(self) -> None:
        self.names: dict[str, _File] = {}
        self.durable_names: dict[str, _File] = {}

    def apply(self, call: Call) -> None:
        if call.what == "open":
            self.names.setdefault(call.name, _File())
        elif call.what == "rename":
            self.names[call.to] = self.names.pop(call.name)
        elif call.what == "unlink":
            self.names.pop(call.name, None)
        elif call.what == "sync" and call.name == ".":
            self.durable_names = dict(self.names)
        elif call.what == "sync":
            file = self.names[call.name]
            file.durable, file.pending = file.after(file.pending), []
        elif call.what in ("write", "truncate"):
            self.names[call.name].pending.append(call)

    def least(self) -> dict[str, bytes]:
        """Only what must be there."""
        return {name: file.durable for name, file in self.durable_names.items()}

    def most(self) -> dict[str, bytes]:
        """All of it, as if the process had been killed and the machine had gone on."""
        return {name: file.after(file.pending) for name, file in self.names.items()}

    def some(self, chance: random.Random) -> dict[str, bytes]:
        """Names old or new; of what was written since, any part, and the last of it torn."""
        names = chance.choice((self.names, self.durable_names))
        found = {}
        for name, file in names.items():
            calls = [call for call in file.pending if chance.random() < 0.6]
            if calls and calls[-1].what == "write" and chance.random() < 0.5:
                torn = calls.pop()
                whole = chance.randrange(len(torn.data)) // SECTOR * SECTOR
                calls.append(Call("write", torn.name, offset=torn.offset, data=torn.data[:whole]))
            found[name] = file.after(calls)
        return found
