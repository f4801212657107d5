# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Adoption: a host that was connected with ClawMetry's own client goes on under the same name, keys and cursors.

Everything is looked at before anything is written (``adoptplan``); one problem, and nothing happens at all. The
old home is only read. The keys go last, so that a daemon which can send also knows what was sent.
"""

from __future__ import annotations

import os
import signal
from typing import Any, Callable, Mapping, Optional

from . import upstream
from .adoptplan import ADOPTED, Plan, World, choose, make_plan, unit_is
from .config import load
from .errors import ClawmetryError, ConfigError, StateError, shown
from .queue import InstanceLock, Queue, prepare_state_dir
from .read import imported

STOP_TIMEOUT_S = 15.0


def adopt(
    config: Optional[str],
    home: Optional[str],
    env: Mapping[str, str],
    *,
    dry_run: bool = False,
    stop_old: bool = False,
    world: Optional[World] = None,
) -> dict[str, Any]:
    """Take over the home at HOME (default: the only one there is). Returns what was, or would be, done; no secret in it.

    Raises ConfigError or StateError when a file of either side is not to be believed.
    """
    world = world or World()
    plan = make_plan(load(config, env), choose(home, env), stop_old, world)
    if not plan.problems and not dry_run:
        if stop_old:
            stop(plan.old, world)
            if plan.cursors is not None:
                plan.cursors = upstream.read_cursors(plan.old.path)  # it may have gone on since
        _apply(plan)
    done = "would be done" if dry_run or plan.problems else "done"
    return {
        "schema_version": 1,
        "ok": not plan.problems,
        "dry_run": dry_run,
        "home": plan.old.path,
        "node_id": plan.node_id,
        "ingest_url": plan.ingest_url,
        "cursors": len(plan.cursors.lines) if plan.cursors is not None else 0,
        "steps": [{**step, "result": done if step["result"] == "do" else step["result"]} for step in plan.steps],
        "problems": plan.problems,
    }


def _apply(plan: Plan) -> None:
    settings = plan.settings
    owner = None
    if os.geteuid() == 0 and os.path.isdir(settings.state_dir):
        seen = os.lstat(settings.state_dir)
        owner = (seen.st_uid, seen.st_gid) if seen.st_uid else None
    if owner is None:
        _fill_queue(plan)
    else:
        # The service's own directory: root follows nothing it may have put there.
        _as_owner(*owner, lambda: _fill_queue(plan))
    if plan.key_text is not None:
        _put(settings.encryption_key_file, plan.key_text.encode("ascii") + b"\n", 0o600)
    if plan.config_text is not None:
        _put(plan.config_path, plan.config_text, 0o644, replace=settings.path is not None)
    if plan.api_key is not None:
        _put(plan.api_key_path, plan.api_key.encode("ascii") + b"\n", 0o600)


def _fill_queue(plan: Plan) -> None:
    settings = plan.settings
    prepare_state_dir(settings.state_dir)
    lock = InstanceLock(settings.state_dir)
    try:
        queue = Queue(settings.queue_path)
        try:
            with queue.transaction():
                if plan.old.node_id:
                    queue.set_meta("node_id", plan.old.node_id)
                    queue.set_meta("registered", plan.ingest_url)
                for (scope, agent, name), lines in (plan.cursors.lines if plan.cursors is not None else {}).items():
                    value = imported.meta_value(lines, plan.cursors.as_of if plan.cursors is not None else "")
                    queue.set_meta(imported.meta_key(scope, agent, name), value)
                if plan.cursors is not None:
                    queue.set_meta(ADOPTED, shown(plan.old.path))
        finally:
            queue.close()
    finally:
        lock.release()


def _as_owner(uid: int, gid: int, work: Callable[[], None]) -> None:
    """Do WORK in a child that has become UID for good. Raises StateError with what went wrong there."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            work()
            code = 0
        except (ClawmetryError, OSError) as exc:
            os.write(writing, shown(str(exc), 1000).encode("ascii"))
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        said = stream.read(4096).decode("ascii", "replace")
    if os.waitpid(child, 0)[1] != 0:
        raise StateError("cannot fill the state directory", cause=said or "its child process died")


def _put(path: str, data: bytes, mode: int, *, replace: bool = False) -> None:
    """Write a file whole and durably; unless REPLACE, only where none is. A replaced file keeps its owner and mode."""
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o755, exist_ok=True)
    unborn = "%s.%d.new" % (path, os.getpid())
    try:
        fd = os.open(unborn, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
            if replace:
                seen = os.stat(path)
                os.fchown(fd, seen.st_uid, seen.st_gid)
                mode = seen.st_mode & 0o777
            os.fchmod(fd, mode)
            stream.flush()
            os.fsync(fd)
        if replace:
            os.rename(unborn, path)
        else:
            os.link(unborn, path)
        held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fsync(held)
        os.close(held)
    except OSError as exc:
        raise ConfigError("cannot write it", where=path, cause=os.strerror(exc.errno or 0), next_step="run this as root") from None
    finally:
        if os.path.lexists(unborn):
            os.unlink(unborn)


# -- the old daemon -----------------------------------------------------------------


def stop(old: upstream.Home, world: World) -> None:
    """Stop and disable the old daemon: its system unit, its owner's unit, and a process without one. Raises StateError."""
    has_systemd = os.path.isdir(world.systemd)
    if has_systemd and os.geteuid() == 0 and (unit_is(world, "is-active") or unit_is(world, "is-enabled")):
        _systemctl(world, ["systemctl", "disable", "--now", upstream.UNIT])
    if has_systemd and os.path.lexists(os.path.join(os.path.dirname(old.path), upstream.USER_UNIT)):
        whose = ["--machine=%d@.host" % old.uid] if os.geteuid() != old.uid else []
        own = {"XDG_RUNTIME_DIR": "/run/user/%d" % old.uid}
        _systemctl(world, ["systemctl", "--user", *whose, "disable", "--now", upstream.UNIT], own)
    pid = upstream.running_pid(old.path, world.proc)
    if pid is None:
        return
    try:
        world.kill(pid, signal.SIGTERM)
    except OSError as exc:
        raise StateError("cannot stop the old daemon", where="process %s" % pid, cause=os.strerror(exc.errno or 0)) from None
    waited = 0.0
    while upstream.running_pid(old.path, world.proc) is not None:
        if waited >= STOP_TIMEOUT_S:
            raise StateError("the old daemon does not stop", where="process %s" % pid, next_step="stop it, then clawmetry adopt again")
        world.sleep(0.25)
        waited += 0.25


def _systemctl(world: World, argv: list[str], env: Optional[Mapping[str, str]] = None) -> None:
    answer = world.runner(argv, timeout_s=60.0, env=env or {})
    if answer.rc != 0:
        cause = shown(answer.stderr.strip() or answer.stdout.strip()) or "exit code %d" % answer.rc
        raise StateError("cannot stop the old unit", where=" ".join(argv), cause=cause, next_step="stop and disable it by hand")
