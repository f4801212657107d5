# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""``clawmetry …``: the command line of design.md. JSON on stdout only, logs on stderr only, no secret as an argument."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from typing import Any, Optional, Sequence

from . import adoptcli, api, archivecli, control, deadcli, doctor, secretfile
from .config import Settings, load
from .daemon import Daemon, make_target, shown_source
from .ending import command_line, end
from .errors import ClawmetryError, ConfigError, StateError
from .log import LEVELS, Log
from .notify import Notifier
from .queue import Queue, check_own
from .seal import Sealer, is_passphrase, new_key, parse_key
from .ship.archive import foreign_envelopes
from .syncnow import run_sync
from .terminal import drop, flush, line, note
from .version import VERSION

MAX_TIMEOUT_S = 1_000_000
RESTART_PAUSE_S = 2.0


def parser() -> argparse.ArgumentParser:
    # Before the verb or after it: what is not given leaves what was given elsewhere.
    shared = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    shared.add_argument("--config", metavar="PATH", help="configuration file (default: the system's, else the user's)")
    shared.add_argument("--log-level", choices=LEVELS, help="what is logged to stderr (default: info)")
    shared.add_argument("--version", action="version", version="clawmetry " + VERSION)
    text = "Sync AI-agent sandboxes of this host to ClawMetry, end-to-end encrypted."
    top = argparse.ArgumentParser(prog="clawmetry", description=text, parents=[shared])
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, text: str, *, as_json: bool = False) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text, parents=[shared])
        if as_json:
            added.add_argument("--json", action="store_true", help="print JSON")
        return added

    verb("run", "the daemon, in the foreground")
    sync = verb("sync", "one pass to the end of everything readable, until stored or acknowledged", as_json=True)
    sync.add_argument("--timeout", type=_seconds, default=600.0, metavar="SECONDS", help="give up after this long (default: 600)")
    verb("snapshot", "what this host is; reads only", as_json=True)
    ending = verb("stop", "end the daemon that runs with this configuration, and wait until it has")
    ending.add_argument("--timeout", type=float, default=15.0, metavar="SECONDS", help="kill it after this long (default: 15)")
    verb("status", "per source: offset, size, lag, last ack, retries, quarantined", as_json=True)
    checks = verb("doctor", "checks, each with what was seen and what to do", as_json=True)
    checks.add_argument("--deep", action="store_true", help="also ask runtimes whose answers are not free of side effects")
    verb("check-config", "validate file, keys and permissions; send nothing")
    verb("keygen", "print a new encryption key")
    archivecli.add_parser(verbs, shared)
    adoptcli.add_parser(verbs, shared)
    deadcli.add_parser(verbs, shared)
    return top


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= MAX_TIMEOUT_S:
        raise argparse.ArgumentTypeError("%s is not within 0 and %d seconds" % (text, MAX_TIMEOUT_S))
    return value


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command and return its exit code."""
    args = parser().parse_args(argv, argparse.Namespace(config=None, log_level="info"))
    try:
        code = int(_VERBS[args.verb](args))
        flush()
        return code
    except BrokenPipeError:
        drop()  # the reader (head, less) has seen enough
        return 0
    except KeyboardInterrupt:
        return 130
    except ClawmetryError as exc:
        note("clawmetry: %s" % exc)
        return 2


def _print(value: Any) -> None:
    line(json.dumps(value, indent=2))


def _keygen(args: argparse.Namespace) -> int:
    line(new_key())
    return 0


def checked(config: Optional[str]) -> Settings:
    """Load a configuration and check all that would fail at start, sending nothing. Raises ConfigError."""
    settings = load(config)
    sealer = Sealer(parse_key(secretfile.encryption_key_text(settings, os.environ)))
    if not settings.is_archive:
        make_target(settings, os.environ, sealer).close()
    else:
        _writable("archive", settings.archive_dir)
    _writable("state", settings.state_dir)
    check_own(settings.state_dir)
    return settings


def _writable(what: str, path: str) -> None:
    """Raise ConfigError unless the directory at PATH is ours to write, or ours to make."""
    place = path
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    step = "name another place, or run this as the service's user"
    if not os.path.isdir(place):
        raise ConfigError("the %s directory cannot be there" % what, where=path, cause="%s is no directory" % place, next_step=step)
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK if place == path else os.W_OK | os.X_OK):
        cause = "" if place == path else "%s is closed to us" % place
        raise ConfigError("the %s directory is not ours to write" % what, where=path, cause=cause, next_step=step)


def _check_config(args: argparse.Namespace) -> int:
    settings = checked(args.config)
    if is_passphrase(secretfile.encryption_key_text(settings, os.environ)):
        text = "the encryption key is a passphrase; ClawMetry's unsalted derivation is used. Better: clawmetry keygen"
        note("clawmetry: warning: %s" % text)
    foreign = foreign_envelopes(settings.archive_dir, Sealer(parse_key(secretfile.encryption_key_text(settings, os.environ))).open)
    if foreign:
        note("clawmetry: warning: " + foreign)
    note("clawmetry: %s is fine; data goes to %s" % (settings.path or "the default configuration", settings.ingest_url))
    return 0


def _run(args: argparse.Namespace) -> int:
    log = Log(args.log_level, stamp="JOURNAL_STREAM" not in os.environ)
    notifier = Notifier(os.environ)
    settings: Optional[Settings] = checked(args.config)
    stopping: list[bool] = []
    lives = 0
    while settings is not None:
        try:
            settings = _one_life(settings, args.config, log, notifier, stopping)
            lives += 1
        except (OSError, ClawmetryError) as exc:
            # The configuration is fine; after a reload it is the host that is in trouble (descriptors, disk), and may recover.
            if not lives:
                raise exc if isinstance(exc, ClawmetryError) else StateError("cannot start", cause=str(exc)) from exc
            log("error", "restart-failed", reason=str(exc), next_step="it is tried again")
            for _tenth in range(int(RESTART_PAUSE_S * 10)):
                time.sleep(0.1)
                notifier.alive()
                if stopping:
                    return 0
    return 0


def _one_life(settings: Settings, config: Optional[str], log: Log, notifier: Notifier, stopping: list[bool]) -> Optional[Settings]:
    """Run until SIGTERM (None) or until SIGHUP has found a configuration that is fine (its settings).

    STOPPING outlives this life: a SIGTERM between two of them ends the next one at once.
    """
    daemon = Daemon(settings, os.environ, log)
    following: list[Settings] = []

    def on_stop(_number: int, _frame: object) -> None:
        if stopping:
            os._exit(1)  # asked twice: at once
        stopping.append(True)
        daemon.stop.set()
        daemon.wake.set()

    def on_reload(_number: int, _frame: object) -> None:
        try:
            following.append(checked(config))
        except ClawmetryError as exc:
            log("error", "reload-refused", reason=str(exc), next_step="the old configuration stays in force")
            return
        log("info", "reloading", config=following[-1].path or "defaults")
        daemon.stop.set()
        daemon.wake.set()

    signal.signal(signal.SIGTERM, on_stop)
    signal.signal(signal.SIGINT, on_stop)
    signal.signal(signal.SIGHUP, on_reload)
    if stopping:
        return None
    daemon.start()
    try:
        server = control.Server(settings.socket_path, lambda request: _answer(daemon, request))
        try:
            daemon.spawn("control", lambda: server.run(daemon.stop))
            log("info", "running", version=VERSION, node=daemon.node_id, target=daemon.target.url, state_dir=settings.state_dir)
            notifier.send("READY=1")
            daemon.run(notifier.alive)
            notifier.send("RELOADING=1" if following and not stopping else "STOPPING=1")
        finally:
            server.close()
    finally:
        daemon.close()
    log("info", "stopped")
    return following[-1] if following and not stopping else None


def _answer(daemon: Daemon, request: dict[str, Any]) -> dict[str, Any]:
    if request.get("op") == "status":
        queue = Queue(daemon.settings.queue_path, check=False)
        try:
            return daemon.status(queue)
        finally:
            queue.close()
    if request.get("op") == "sync":
        timeout = request.get("timeout_s")
        return control.wait_for_sync(daemon, daemon.stop, float(timeout) if isinstance(timeout, (int, float)) else 60.0)
    if request.get("op") == "dead-letters":
        queue = Queue(daemon.settings.queue_path, check=False)
        try:
            return deadcli.perform(queue, request.get("action"))
        finally:
            queue.close()
    return {"error": "unknown request"}


def _sync(args: argparse.Namespace) -> int:
    settings = load(args.config)
    shows = sys.stderr is not None and sys.stderr.isatty() and not args.json
    last = [0.0]

    def progress(daemon: Daemon) -> None:
        if shows and time.monotonic() - last[0] > 0.2:
            last[0] = time.monotonic()
            rows, size = daemon.queue.outbox_size()
            totals = daemon.totals()
            note("\r%(events)d events in %(batches)d envelopes" % totals + " (%d wait, %d bytes)   " % (rows, size), end="")

    result = run_sync(settings, os.environ, args.timeout, Log(args.log_level), progress)
    if shows and last[0]:
        note()
    if args.json:
        _print(result)
    else:
        line(
            "%s: %d events in %d envelopes (%d bytes) to %s"
            % ("synced" if result["ok"] else "not complete", result["events"], result["batches"], result["bytes"], settings.ingest_url)
        )
        if result["quarantined"]:
            line("%d records in quarantine: clawmetry status --json" % result["quarantined"])
    for text in result["errors"]:
        note("clawmetry: %s" % text)
    return 0 if result["ok"] else 1


def _snapshot(args: argparse.Namespace) -> int:
    facts = api.snapshot(config_path=args.config)
    if args.json:
        _print(facts)
        return 0
    line("%s (%s %s), node id %s" % (facts["node"]["hostname"], facts["node"]["os"], facts["node"]["arch"], facts["node"]["id"]))
    for name, runtime in facts["runtimes"].items():
        word = {True: "present", False: "absent", None: "unknown"}[runtime["present"]]
        version = " " + runtime["version"] if runtime["version"] else ""
        line("  %-9s %s%s" % (name, word, version))
    for box in facts["sandboxes"]:
        mark = "*" if box["default"] else " "
        text = (
            "%s, %s sessions through %s" % (box["store"], box["sessions"]["count"], box["route"])
            if box["readable"]
            else "not readable: %s" % box["reason"]
        )
        line("%s %s (%s, %s): %s" % (mark, box["name"], box["type"], box["status"] or "status unknown", text))
    if not facts["sandboxes"]:
        line("no sandbox found")
    for text in facts["deployment"]["warnings"]:
        note("clawmetry: warning: %s" % text)
    return 0


def _status(args: argparse.Namespace) -> int:
    settings = load(args.config)
    try:
        answer = control.ask(settings.socket_path, {"op": "status"})
        reason = "no daemon is running here"
    except StateError as exc:
        answer, reason = None, str(exc)
    if answer is None:
        answer = _status_down(settings, reason)
    if args.json:
        _print(answer)
    else:
        _show_status(answer)
    return {"ok": 0, "degraded": 1}.get(str(answer["state"]), 2)


def _status_down(settings: Settings, reason: str) -> dict[str, Any]:
    """Return the status of a host where no daemon runs: what its queue.db tells, in the shape of the daemon's own answer."""
    kept: dict[str, Any] = {"sources": []}
    if os.access(settings.queue_path, os.R_OK):
        kept.update(Queue.peek_status(settings.queue_path))
    elif not os.path.lexists(settings.queue_path):
        kept.update(dict.fromkeys(("pending", "pending_bytes", "quarantined", "dead_letters", "dead_letter_bytes"), 0))
    now = time.time()
    oldest = kept.get("oldest_pending")
    return {
        "state": "down",
        "reason": kept.get("reason", reason),
        "version": VERSION,
        **dict.fromkeys(("pid", "uptime_s", "node_id", "trouble", "passes")),
        "target": {
            **dict.fromkeys(("reason", "retries", "retries_total", "delivered")),
            "url": settings.ingest_url,
            "state": "not asked",
            "last_ack": kept.get("last_ack"),
        },
        "queue": {
            "pending": kept.get("pending"),
            "pending_bytes": kept.get("pending_bytes"),
            "max_bytes": settings.queue_max_bytes,
            "oldest_pending_s": round(now - oldest, 3) if oldest else None,
        },
        "quarantined": kept.get("quarantined"),
        "quarantine": kept.get("quarantine", []),
        "dead_letters": kept.get("dead_letters"),
        "dead_letter_bytes": kept.get("dead_letter_bytes"),
        "sandboxes": [],
        "unreadable": {},
        "problems": {},
        "sources": [shown_source(source, None, 0.0, now) for source in kept["sources"]],
    }


def _show_status(answer: dict[str, Any]) -> None:
    line("%s%s" % (answer["state"], ": " + answer["reason"] if answer.get("reason") else ""))
    target = answer.get("target")
    if target:
        line("target   %s: %s%s" % (target["url"], target["state"], ", " + target["reason"] if target["reason"] else ""))
        line("queue    %(pending)s envelopes, %(pending_bytes)s bytes of %(max_bytes)s" % answer["queue"])
    line("kept back: %(quarantined)s quarantined, %(dead_letters)s dead letters" % answer)
    for uid, reason in answer.get("unreadable", {}).items():
        line("unreadable %s: %s" % (uid, reason))
    for name, problems in answer.get("problems", {}).items():
        for label, text in problems.items():
            line("problem  %s: %s: %s" % (name, label, text))
    for source in answer["sources"]:
        name = source.get("sandbox_name") or source["sandbox"]
        line(
            "%-20s %-44s %10d of %-10d lag %s s"
            % (name[:20], source["file"][:44], source["offset"], source["size"], source.get("lag_s", "?"))
        )


def _stop(args: argparse.Namespace) -> int:
    settings = load(args.config)
    if not end(settings.state_dir, args.timeout, starting=command_line(b"stop", b"run")):
        raise StateError("the running daemon does not end", where=settings.state_dir)
    return 0


def _doctor(args: argparse.Namespace) -> int:
    checks = doctor.run(args.config, os.environ, deep=args.deep)
    if args.json:
        _print(doctor.as_json(checks))
    else:
        for text in doctor.report(checks):
            line(text)
    return doctor.exit_code(checks)


_VERBS = {
    "run": _run,
    "stop": _stop,
    "sync": _sync,
    "snapshot": _snapshot,
    "status": _status,
    "doctor": _doctor,
    "check-config": _check_config,
    "keygen": _keygen,
    "archive": archivecli.run,
    "adopt": adoptcli.run,
    "dead-letters": deadcli.run,
}
