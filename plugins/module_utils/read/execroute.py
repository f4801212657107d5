# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Route ``exec``: a sandbox's files as its own programs tell them. The last resort, and only when the operator allows it.

One call for each look: a listing, and behind it a ``tar`` of what has just changed and is small; what is large
or was missed takes one more call each. Fixed argv, no terminal, no stdin, bounded in bytes and time; in a pod
through the kubectl of its cluster's container. The programs are the sandbox's and may lie about everything in
it: what they say is taken as the sandbox's word, which its transcripts are anyway, and never as a path of ours.
"""

from __future__ import annotations

import contextlib
import io
import re
import stat
import time
from contextlib import AbstractContextManager
from typing import Callable, Optional, Sequence

from ..dockerapi import EngineError
from ..dockerexec import ExecEngine
from ..errors import Unreadable, shown
from ..model import ContainerPlace
from . import layout
from .spool import Due, Seen, SpooledRoot, Tree
from .tar import PIECE, TarReader

INTERVAL_S = 10.0
MAX_INTERVAL_S = 600.0
LISTING_S = 10.0
MAX_LISTING_BYTES = 8 << 20
# What comes behind a listing is kept until the next.
MAX_AHEAD_BYTES = 1 << 20

# kubectl of the k3s in OpenShell's cluster container, and the container of a pod that the agent is in.
KUBECTL = ("/bin/kubectl", "--kubeconfig=/etc/rancher/k3s/k3s.yaml", "--request-timeout=8s", "-n", "openshell")
CONTAINER = "agent"

# Runs ARGV in the sandbox with so many seconds in all; yields a reader of its stdout.
Run = Callable[[Sequence[str], float], AbstractContextManager[Callable[[int], bytes]]]

_OTHERS = tuple(path for other in layout.OTHER_AGENTS for path in (other.place, *other.databases))
_END = b"end-of-listing"
# In one line: OpenShell took no line ends in arguments at first.
_EACH = (
    "for base in %s; do for state in /$base/.openclaw /$base/.openclaw-data; do "
    "if [ -d $state ] && [ ! -h $state ]; then %%s; fi; done; done; "
)
_LIST = "find $state -maxdepth 4 '(' -path \"$state/agents/*\" -o -path \"$state/workspace*/*.md\" ')' -exec stat -c '%f %s %Y %n' '{}' +"
_NEWS = (
    "find $state -maxdepth 4 -type f '(' -path \"$state/agents/*/sessions/*.jsonl*\" -o -path \"$state/agents/*/sessions/sessions.json\" "
    "-o -path \"$state/workspace*/*.md\" ')' ! -name '*.trajectory*' ! -name '*.lock' -mmin -1 -size -1024 -exec tar -c -f - '{}' +"
)
_LOOP = _EACH % " ".join(base.decode("ascii") for base in layout.BASES)
_SCRIPT = "PATH=/usr/bin:/bin; %sstat -c '%%f %%s %%Y %%n' %s; echo %s; %secho" % (
    _LOOP % _LIST,
    " ".join("/" + path.decode("ascii") for path in _OTHERS),
    _END.decode("ascii"),
    _LOOP % _NEWS,
)
_LINE = re.compile(rb"([0-9a-f]{1,8}) (\d{1,18}) (\d{1,12}) /([^\0]+)")
_WANTED = re.compile(
    rb"(?P<state>(?:%s)/\.openclaw(?:-data)?)/"
    rb"(?:agents/[^/]+/sessions/[^/]+|agents/[^/]+/(?:sessions|agent)|agents/[^/]+/agent/openclaw-agent\.sqlite"
    rb"|agents/[^/]+|workspace[^/]*/(?:memory/)?[^/]+\.md)|(?:%s)" % (b"|".join(layout.BASES), b"|".join(map(re.escape, _OTHERS))),
)


def parse_listing(data: bytes) -> Tree:
    """Return what the listing says. Sample: ``81a4 25 1795296115 /sandbox/.openclaw/agents/main/sessions/x.jsonl``.

    A name with a line end makes lines that are passed over, or that name another path of the same
    sandbox. Raises Unreadable when the listing did not come to its end.
    """
    lines = data.split(b"\n")
    if _END not in lines[-2:]:
        raise Unreadable("the sandbox's listing did not come to its end")
    seen: dict[bytes, Seen] = {}
    links: set[bytes] = set()
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None or not _WANTED.fullmatch(match.group(4)) or b".." in match.group(4).split(b"/"):
            continue
        mode, path = int(match.group(1), 16), match.group(4)
        kind = "file" if stat.S_ISREG(mode) else "dir" if stat.S_ISDIR(mode) else "other"
        seen[path] = Seen(kind, int(match.group(2)), int(match.group(3)) * 10**9)
        if kind == "other":
            links.add(path)
    for path in list(seen):
        parts = path.split(b"/")
        for depth in range(1, len(parts)):
            seen.setdefault(b"/".join(parts[:depth]), Seen("dir"))
    return Tree({path: what for path, what in seen.items() if not any(path.startswith(link + b"/") for link in links)})


def parse_news(data: bytes) -> dict[bytes, tuple[int, int, bytes]]:
    """Return (size, time in seconds, content) by path of the files in the tar stream behind a listing, as far as it is whole."""
    found: dict[bytes, tuple[int, int, bytes]] = {}
    stream = io.BytesIO(data)
    reader = TarReader(stream.read)
    with contextlib.suppress(Unreadable):
        while True:
            entry = reader.next()
            if entry is None:
                break
            content = b"".join(iter(lambda: reader.read(PIECE), b"")) if entry.kind == "file" else b""
            if entry.kind == "file" and len(content) == entry.size:
                found[entry.name] = (entry.size, entry.mtime, content)
    return found


def _behind(data: bytearray, searched: int) -> int:
    """Return where the bytes behind a listing begin, -1 while its last line has not come; so much was SEARCHED before."""
    line = b"\n" + _END + b"\n"
    if data.startswith(line[1:]):
        return len(line) - 1
    at = data.find(line, max(0, searched - len(line)))
    return -1 if at < 0 else at + len(line)


class ExecRoot(SpooledRoot):
    """A sandbox's root as its own programs show it."""

    def __init__(
        self,
        run: Run,
        label: str,
        *,
        spool_dir: Optional[str] = None,
        clock: Callable[[], float] = time.monotonic,
        confirm: Callable[[], None] = lambda: None,
    ) -> None:
        """``confirm`` is asked before news is believed: it raises Unreadable when things are run in another sandbox by now."""
        super().__init__(label, spool_dir)
        self._run = run
        self._confirm = confirm
        self._due = Due(INTERVAL_S, clock)
        self._marks = 0
        self._news: dict[bytes, tuple[int, int, bytes]] = {}

    def tar(self, path: bytes, timeout_s: float) -> AbstractContextManager[Callable[[int], bytes]]:
        parent, _slash, name = path.rpartition(b"/")
        try:
            # "./" keeps a name that begins with a dash from being an option.
            argv = ("/bin/tar", "-c", "-f", "-", "-C", "/" + parent.decode("utf-8"), "./" + name.decode("utf-8"))
        except UnicodeDecodeError:
            raise Unreadable("a name that is not UTF-8 cannot be asked for on this route", where=shown(path)) from None
        return self._run(argv, timeout_s)

    def look(self, *, at_once: bool = False) -> None:
        if not self._due.now() and not at_once:
            return
        try:
            with self._run(("/bin/sh", "-c", _SCRIPT), LISTING_S) as read:
                listing, behind = self._listing(read)
            tree = parse_listing(listing)
            if tree.seen != self._tree.seen:
                self._confirm()
        except Unreadable as exc:
            self.trouble = exc.what
            # What runs too long in there goes on when we hang up: not many of those.
            self._due.interval_s = min(self._due.interval_s * 2, MAX_INTERVAL_S)
            raise
        self._marks += 1
        self._news = parse_news(behind)
        self.publish(Tree(tree.seen, {path: self._marks for path, seen in tree.seen.items() if seen.kind == "dir"}))
        self.trouble, self._due.interval_s = None, INTERVAL_S

    def _listing(self, read: Callable[[int], bytes]) -> tuple[bytes, bytes]:
        """Return the listing, and what came behind it, which may have been cut. Raises Unreadable when there is no listing."""
        data, end = bytearray(), -1
        try:
            while end < 0 or len(data) < end + MAX_AHEAD_BYTES:
                piece = read(65536)
                if not piece:
                    break
                searched = len(data)
                data += piece
                end = _behind(data, searched) if end < 0 else end
                if end < 0 and len(data) > MAX_LISTING_BYTES:
                    raise Unreadable("the sandbox's listing is larger than %d bytes" % MAX_LISTING_BYTES, where=self.label)
        except EngineError:
            if end < 0:
                raise
        return (bytes(data), b"") if end < 0 else (bytes(data[:end]), bytes(data[end:]))

    def _ahead(self, path: bytes, seen: Seen) -> Optional[bytes]:
        """Return the content of PATH when it came with the listing that showed it as SEEN."""
        size, mtime_s, content = self._news.get(path, (-1, 0, b""))
        return content if (size, mtime_s * 10**9) == (seen.size, seen.mtime_ns) else None

    def _fetch(self, path: bytes, seen: Seen) -> int:
        content = self._ahead(path, seen)
        return super()._fetch(path, seen) if content is None else self._spooled(content, seen)

    def read_head(self, path: bytes, limit: int) -> bytes:
        seen = self._tree.seen.get(path)
        content = None if seen is None else self._ahead(path, seen)
        return super().read_head(path, limit) if content is None else content[:limit]


def open_root(place: ContainerPlace, spool_dir: Optional[str]) -> ExecRoot:
    """Return the root of a running container or pod, looked at once. Raises Unreadable."""
    engine = ExecEngine(place.engine)
    prefix: tuple[str, ...] = ()
    if place.pod is not None:
        if place.pod_name is None:
            raise Unreadable("kubectl did not tell the pod's name", where=place.pod)
        prefix = (*KUBECTL, "exec", place.pod_name, "-c", CONTAINER, "--")
    label = "pod %s" % place.pod if place.pod is not None else "container %s" % place.container_id[:12]
    root = ExecRoot(lambda argv, timeout_s: engine.run(place.container_id, (*prefix, *argv), timeout_s), label, spool_dir=spool_dir)
    root.look(at_once=True)
    return root
