# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Which way leads into a sandbox: proc, or volume. What is held here is closed here.

In order of preference (design.md "Routes into a sandbox"): the root of the container's first
process; the host directory of a volume or bind mount that holds the state directory; the home of a
bare OpenClaw; the engine's archive call, for what is stopped or on another machine; the sandbox's
own programs (exec), where the operator allows it and nothing else leads in.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Callable, Optional, Sequence, Union

from ..dockerapi import Engine
from ..errors import Unreadable, shown
from ..model import CliPlace, ContainerPlace, Mount, Sandbox, Survey
from . import layout, procroot
from .archive import ArchiveRoot
from .opener import HeldDir
from .spool import SpooledRoot

# SQLite needs the file itself.
DATABASE_ROUTES = ("proc", "volume")

Reinspect = Callable[[ContainerPlace], Optional[ContainerPlace]]


class HeldSandbox:
    """A sandbox with its root held open, and the state directories found below it."""

    def __init__(
        self,
        sandbox: Sandbox,
        route: str,
        root: HeldDir,
        pinned: Optional[procroot.PinnedRoot],
        state: Optional[bytes],
        place: bytes = b"",
    ) -> None:
        self.sandbox = sandbox
        self.route = route
        self.root = root
        self.place = place  # of the held root in the sandbox: a path has one name by whatever route it is reached
        self.opened_as = sandbox.container  # what it was when it was opened; ``sandbox`` follows discovery
        self.opened_by = sandbox.cli
        self._pinned = pinned
        self._state = state
        self.states: tuple[layout.State, ...] = ()
        self._counter: Any = None
        self.refresh()

    def refresh(self) -> None:
        """Look again for state directories, agents and workspaces."""
        states = layout.find_states(self.root) if self._state is None else layout.state_below(self.root, self._state)
        if self._pinned is not None:
            if not self._pinned.alive():
                return  # its mounts went with it: what was found before, and kept, is all there will be
            self.root.keep([agent.sessions for state in states for agent in state.agents])
        self.states = states

    def alive(self) -> bool:
        """Is what we hold still the sandbox's? False once its first process is gone, or its home is another directory;
        what we hold stays readable."""
        if self._pinned is not None:
            return self._pinned.alive()
        return self.sandbox.home is None or self.root.is_at(self.sandbox.home.root)

    @property
    def pidfd(self) -> int:
        """A descriptor that becomes readable when the sandbox's first process ends, -1 where there is none."""
        return -1 if self._pinned is None else self._pinned.pidfd

    def look(self) -> None:
        """Let a route that has to ask (archive) see what is there now. From one thread only. Raises Unreadable."""
        if isinstance(self.root, SpooledRoot):
            self.root.look()

    def database_sessions(self, path: bytes) -> Any:
        """Return what counting.Counter tells of an agent's database."""
        if self.route not in DATABASE_ROUTES:
            return (), "SQLite is not read through the route " + self.route, 0, 0.0
        try:
            if self._counter is None:
                self._counter = import_module(".counting", __package__).Counter(self.root, self.sandbox.home is not None)
        except ImportError:
            return (), "SQLite is read by the installed release only", 0, 0.0
        return self._counter.sessions(path)

    def __enter__(self) -> HeldSandbox:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        if self._pinned is not None:
            self._pinned.close()
        else:
            self.root.close()


def open_sandbox(
    sandbox: Sandbox,
    *,
    routes: Sequence[str],
    reinspect: Optional[Reinspect] = None,
    engine: Optional[Engine] = None,
    spool_dir: Optional[str] = None,
) -> HeldSandbox:
    """Hold SANDBOX's root through the first route that works. Raises Unreadable with every reason met.

    ``engine`` is the container's own, for the archive route; ``spool_dir`` takes what is too large for memory.
    """
    if sandbox.home is not None:
        return HeldSandbox(sandbox, "volume", HeldDir.hold(sandbox.home.root), None, sandbox.home.state)
    place = sandbox.container
    if place is None:
        if "exec" in routes and sandbox.cli is not None:
            return _through_exec(sandbox, "openshellexec", sandbox.cli, spool_dir)
        hint = "" if sandbox.cli is None else "; openshell's own exec leads in, and the exec route is not allowed"
        raise Unreadable("nothing to read", where=shown(sandbox.name), cause=(sandbox.reason or "no container was seen") + hint)
    reasons: list[str] = []
    if "proc" in routes and place.running:
        try:
            return _through_proc(sandbox, place, reinspect)
        except Unreadable as exc:
            reasons.append(str(exc))
    elif "proc" in routes:
        reasons.append("the container is not running")
    if place.pod is not None and "exec" not in routes:
        reasons.append("the exec route is not allowed")
    elif place.pod is None and "volume" in routes:
        for mount in place.mounts:
            held = _through_mount(sandbox, mount)
            if held is not None:
                return held
        if place.mounts:
            reasons.append("no mount holds an OpenClaw state directory")
    if place.pod is None and "archive" in routes and engine is not None:
        try:
            return _through_archive(sandbox, place, engine, spool_dir)
        except Unreadable as exc:
            reasons.append(str(exc))
    # The engine's exec leaves nothing behind; OpenShell's notes which sandbox was used last.
    for module, way in (("execroute", place if place.running else None), ("openshellexec", sandbox.cli)):
        if "exec" in routes and way is not None:
            try:
                return _through_exec(sandbox, module, way, spool_dir)
            except Unreadable as exc:
                reasons.append(str(exc))
    what = "pod" if place.pod is not None else "sandbox"
    raise Unreadable("no route into the " + what, where=shown(sandbox.name), cause="; ".join(reasons) or "no route is allowed")


def _through_proc(sandbox: Sandbox, place: ContainerPlace, reinspect: Optional[Reinspect]) -> HeldSandbox:
    pinned = procroot.pin(place.pid, "%s %s" % ("pod" if place.pod else "container", (place.pod or place.container_id)[:12]))
    try:
        # The pid may have been another process's by the time it was pinned: ask the engine once more.
        now = reinspect(place) if reinspect is not None else place
        if now is None or now.pid != place.pid or now.started_at != place.started_at or not pinned.alive():
            raise Unreadable("the container changed while it was opened", where=place.container_id[:12], next_step="it is tried again")
        if place.owner is not None:
            # A user's engine may name any process: it must run in a user namespace of that user's, which maps that user.
            owners = pinned.root.owners = pinned.own_ids()
            if not any(place.owner in ids for ids in owners) or any(0 in ids for ids in owners):
                raise Unreadable("process %d is not uid %d's rootless container" % (place.pid, place.owner), where=place.container_id[:12])
        return HeldSandbox(sandbox, "proc", pinned.root, pinned, None)
    except BaseException:
        pinned.close()
        raise


def _through_archive(sandbox: Sandbox, place: ContainerPlace, engine: Engine, spool_dir: Optional[str]) -> HeldSandbox:
    root = ArchiveRoot(engine, place.container_id, running=place.running, spool_dir=spool_dir)
    root.look(at_once=True)
    return HeldSandbox(sandbox, "archive", root, None, None)


def _through_exec(sandbox: Sandbox, module: str, way: Union[ContainerPlace, CliPlace], spool_dir: Optional[str]) -> HeldSandbox:
    try:
        # Imported by name: opted into by an installed release's configuration, it need not travel with the snapshot module (P7).
        execroute = import_module("." + module, __package__)
    except ImportError:
        raise Unreadable("the exec route is open to the installed release only", next_step="clawmetry snapshot") from None
    return HeldSandbox(sandbox, "exec", execroute.open_root(way, spool_dir), None, None)


def _through_mount(sandbox: Sandbox, mount: Mount) -> Optional[HeldSandbox]:
    """Hold a mount's source when a state directory lies where the container would see one."""
    inside = mount.destination.strip(b"/")
    base, _slash, name = inside.rpartition(b"/")
    states: list[bytes] = []
    if name == b".openclaw" or name.startswith(b".openclaw-"):
        states = [b"."]
    elif inside in layout.BASES or base == b"home":
        states = [b".openclaw", b".openclaw-data"] + ([b"."] if inside in layout.DIRECT else [])
    if not states:
        return None
    try:
        root = HeldDir.hold(mount.source)
    except Unreadable:
        return None
    for state in states:
        if layout.state_below(root, state):
            return HeldSandbox(sandbox, "volume", root, None, state, inside)
    root.close()
    return None


def survey(held: HeldSandbox) -> Survey:
    """Tell what is there by listing and lstat; only databases are opened."""
    if not held.states:
        return _survey_without_openclaw(held)
    agents: list[str] = []
    count = size = closed = 0
    newest: Optional[float] = None
    has_jsonl = has_sqlite = False
    reason = None
    memory: list[tuple[str, int, float]] = []
    for state in held.states:
        for agent in state.agents:
            agents.append(shown(agent.agent))
            live: set[bytes] = set()
            try:
                with held.root.open_dir(agent.sessions) as directory:
                    files, _more = layout.session_files(directory)
                    for name, meaning in files:
                        seen = directory.stat(name)
                        if seen is None or not layout.is_file(seen) or meaning.packed or meaning.session.startswith(layout.WARMUP_PREFIX):
                            continue
                        live.add(meaning.session)
                        size += seen.st_size
                        newest = max(newest or 0.0, seen.st_mtime)
                    has_jsonl = has_jsonl or any(not meaning.packed for _name, meaning in files)
            except FileNotFoundError:
                pass
            except Unreadable as exc:
                closed += 1
                reason = reason or "sessions of agent %s: %s" % (agents[-1], exc)
            kept = held.database_sessions(agent.database) if _exists(held.root, agent.database) else None
            if kept is not None:
                has_sqlite = True
                reason = kept[1] or reason
                live |= {name for name in map(str.encode, kept[0]) if not name.startswith(layout.WARMUP_PREFIX)}
                size += kept[2]
                newest = max(newest or 0.0, kept[3]) or None
            count += len(live)
        for workspace in state.workspaces:
            for name, seen in layout.memory_files(held.root, workspace):
                memory.append((shown(memory_name(workspace, name)), seen.st_size, seen.st_mtime))
    store = "both" if has_jsonl and has_sqlite else "jsonl" if has_jsonl else "sqlite" if has_sqlite else "none"
    return Survey(
        readable=has_sqlite or not 0 < closed == len(agents),
        route=held.route,
        reason=reason,
        store=store,
        agents=tuple(sorted(set(agents))),
        session_count=count,
        session_bytes=size,
        last_activity=newest,
        memory_files=tuple(memory),
    )


def _survey_without_openclaw(held: HeldSandbox) -> Survey:
    found = layout.find_other(held.root)
    if found is None:
        named = held.sandbox.agent
        more = "" if named in (None, "openclaw") else "; transcripts of its agent %s are not read yet" % shown(named)
        return Survey(readable=False, route=held.route, reason="no OpenClaw state directory was found in it" + more)
    other, database = found
    where = database or other.place
    store = "sqlite" if database else "none" if other.databases else None
    reason = "its agent is %s (/%s); transcripts of that are not read yet" % (other.agent, where.decode("ascii"))
    return Survey(readable=False, route=held.route, reason=reason, store=store, other_agent=other.agent)


def memory_name(workspace: bytes, name: bytes) -> bytes:
    """Return the name a memory file is shipped under: bare for the default workspace, prefixed for another agent's."""
    last = workspace.rsplit(b"/", 1)[-1]
    return name if last == b"workspace" else last + b"/" + name


def _exists(root: HeldDir, path: bytes) -> bool:
    parent, _slash, name = path.rpartition(b"/")
    try:
        with root.open_dir(parent) as directory:
            return directory.stat(name) is not None
    except (FileNotFoundError, Unreadable):
        return False
