# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The loop: where discovery, reading, the queue and the target meet.

Threads: this one reads and seals; one discovers; one ships; one answers on the status socket. Each
owns its data and its own connection to queue.db. Every wait wakes on stop.

Phases: starting -> running -> (reloading -> starting | stopping -> stopped).
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import threading
import time
from typing import Any, Mapping, Optional

from . import cloud, hostinfo, kernel, secretfile, snapshot, wire
from .config import Settings
from .errors import ConfigError, shown
from .finder import Finder
from .log import Log
from .model import Survey
from .queue import InstanceLock, Queue, Sealed, idempotency_key, prepare_state_dir
from .read import layout, routes
from .seal import Sealer, parse_key
from .ship import Target, Verdict
from .ship.archive import Archive
from .ship.https import HttpsTarget
from .ship.shipper import Shipper
from .sync import Context, SandboxSync, session_row
from .version import VERSION
from .wake import Wake

ROWS_INTERVAL_S = 15.0
MAX_ROW_UPLOADS_WAITING = 20
ROUND_S = 0.5
DRAIN_S = 60.0
# One-shot: a deploy of the ingest is waited out, an outage is told and left to the daemon.
SYNC_RETRIES = 3
FLUSH_S = 7.0
TRIM_INTERVAL_S = 30.0
# A sandbox that has not been seen in so much time of our own running is as good as gone; its cursors go.
FORGET_SANDBOX_S = 7 * 86400.0
FORGET_AFTER_START_S = 3600.0
# After trouble of our own (disk full, no descriptors): wait, then try again; cursors have not moved.
TROUBLE_PAUSE_S = 5.0


def make_target(settings: Settings, env: Mapping[str, str], sealer: Sealer) -> Target:
    """Return the target the settings name. Raises ConfigError; no API key, no upload."""
    if settings.is_archive:
        return Archive(settings.archive_dir)
    key = secretfile.api_key(settings, env)
    if not key:
        raise ConfigError("there is no API key for %s" % settings.ingest_url, next_step="put it into api_key_file (mode 0600)")
    return HttpsTarget(settings.ingest_url, key, sealer.open, ca_file=settings.ca_file, proxy=settings.proxy)


def shown_source(
    source: dict[str, Any], size: Optional[int], waiting_s: float, now: float, name: Optional[str] = None, retries: int = 0
) -> dict[str, Any]:
    """Turn a row of Queue.source_status() into what status shows; SIZE is the file's now, None when it is only known as last read."""
    del source["id"]
    oldest = source.pop("oldest_pending")
    source["sandbox_name"] = name
    source["size"] = source["size"] if size is None else size
    source["lag_bytes"] = max(0, source["size"] - source["offset"])
    source["lag_s"] = round(max(now - oldest if oldest else 0.0, waiting_s if source["lag_bytes"] else 0.0), 3)
    source["retries"] = retries if source["pending"] else 0
    return source


class Daemon:
    """One life of the engine over one configuration. Use start(), then run() or sync_once(), then close()."""

    def __init__(self, settings: Settings, env: Mapping[str, str], log: Log) -> None:
        self.settings = settings
        self.log = log
        self.stop = threading.Event()
        self._held = contextlib.ExitStack()  # what is to be let go of, in the order of being held, backwards
        self.wake = Wake()
        self._held.callback(self.wake.close)
        self.started_at = time.time()
        self._began = time.monotonic()
        self.trouble: Optional[str] = None  # of the reader
        self.ship_trouble: Optional[str] = None
        self.passes = 0
        self.busy = False  # did the last pass leave something unread?
        self._env = env
        self._syncs: dict[str, SandboxSync] = {}
        self._draining: list[tuple[SandboxSync, float]] = []
        self._waiting: dict[str, routes.HeldSandbox] = {}
        self._rows_at = self._snapshot_at = self._trim_at = -1e9
        self._threads: list[threading.Thread] = []
        self._flush_until = float("inf")

    # -- life -------------------------------------------------------------------

    def start(self) -> None:
        """Open state, key and target, and say who we are. Raises ConfigError, StateError or OSError; nothing runs or is held then."""
        try:
            self._start()
        except BaseException:
            self._held.close()
            raise

    def _start(self) -> None:
        settings = self.settings
        kernel.give_memory_back()
        sealer = Sealer(parse_key(secretfile.encryption_key_text(settings, self._env)))
        prepare_state_dir(settings.state_dir)
        self._held.callback(InstanceLock(settings.state_dir).release)
        self.queue = Queue(settings.queue_path)
        self._held.callback(self.queue.close)
        self.target = make_target(settings, self._env, sealer)
        self._held.callback(self.target.close)
        self.host = hostinfo.gather(env=self._env)
        self.node_id = self._who_are_we()
        outbox = Queue(settings.queue_path, check=False)
        self._held.callback(outbox.close)
        self.shipper = Shipper(
            outbox,
            self.target,
            sealer,
            self.node_id,
            self.log,
            heartbeat=self._heartbeat_body,
            dead_letter_max_bytes=settings.queue_max_bytes,
        )
        if self._registration is not None:
            self.shipper.heed(self._registration)
        self.context = Context(self.queue, sealer, self.node_id, lambda: self.shipper.blob_gzip)
        self.sealer = sealer
        self.finder = Finder(settings, self.log)

    def _who_are_we(self) -> str:
        """Return the node id: configured, else kept, else what /auth answers, else the hostname; then keep it."""
        kept = self.settings.node_id or self.queue.get_meta("node_id")
        registered = self.queue.get_meta("registered")
        hostname = self.host.hostname or "unknown-host"
        if registered == self.target.url and kept:
            self._registered = True
            self._registration = None
            return kept
        self._registration = outcome = self.target.register(kept, hostname, self.host.machine_id_hash or "")
        answered = (outcome.answer or {}).get("node_id")
        self._registered = outcome.verdict is Verdict.ACK
        if self._registered:
            self.queue.set_meta("registered", self.target.url)
        else:
            self.log("warning", "registration", result=outcome.verdict.value, reason=outcome.reason)
        node_id = self.settings.node_id or (answered if isinstance(answered, str) and 0 < len(answered) <= 255 else kept) or hostname
        self.queue.set_meta("node_id", node_id)
        return node_id

    def close(self) -> None:
        """Release everything; what is queued stays queued."""
        for thread in self._threads:
            thread.join(1.0)
        for sync in [*self._syncs.values(), *(sync for sync, _until in self._draining)]:
            sync.close()
        for held in self._waiting.values():
            held.close()
        for held in sum(self.finder.handed_over(), []):
            held.close()
        self._held.close()

    def spawn(self, name: str, work: Any) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    # -- the loop -----------------------------------------------------------------

    def run(self, alive: Any = lambda: None) -> None:
        """Read, seal and ship until stop is set, then flush what is queued for a few seconds."""
        self.spawn("ship", self._ship)
        self.finder.try_to_look()
        self.spawn("discover", lambda: self.finder.run(self.stop, self.wake.set))
        while not self.stop.is_set():
            alive()
            pause = self.settings.poll_interval
            try:
                if self.one_pass():
                    pause = 0.0
                self.log.state("daemon", None)
                self.trouble = None
            except Exception as exc:  # what one pass stumbled over, the next may not; nothing of it was stored
                self.trouble = "%s: %s" % (type(exc).__name__, shown(str(exc)))
                self.log.state("daemon", self.trouble, "error")
                pause = TROUBLE_PAUSE_S
            if pause:
                self._sleep(pause)
        self.finder.nudge.set()
        self._flush_until = time.monotonic() + FLUSH_S
        for thread in self._threads:
            if thread.name == "ship":
                thread.join(FLUSH_S + 1.0)

    def _sleep(self, seconds: float) -> None:
        """Wait; when a container ends meanwhile, take over its last lines at once, before its engine removes them."""
        running = {sync.held.pidfd: sync for sync in self._syncs.values() if sync.held.pidfd >= 0 and not sync.ended}
        for fd in self.wake.wait(seconds, list(running)):
            running[fd].end()
            self.finder.nudge.set()

    def _ship(self) -> None:
        while True:
            stopping = self.stop.is_set()
            try:
                if stopping and (time.monotonic() >= self._flush_until or self.shipper.blocked or self.shipper.queue.next() is None):
                    return
                wait = self.shipper.step()
                self.ship_trouble = None
            except Exception as exc:  # this thread must outlive whatever one envelope met
                self.ship_trouble = "%s: %s" % (type(exc).__name__, shown(str(exc)))
                wait = TROUBLE_PAUSE_S
                if stopping:
                    return
            self.log.state("outbox", self.ship_trouble, "error")
            if wait > 0 and not stopping:
                # The reader has no word for "new row": a short sleep is cheaper than waking on every commit.
                self.stop.wait(wait if self.ship_trouble else min(wait, self.settings.poll_interval, 1.0))

    def one_pass(self) -> bool:
        """One look over every held sandbox, one round of turns, and what else is due. True when there is more at once."""
        now = time.monotonic()
        self._adopt(now)
        more = self._round()
        for sync in self._syncs.values():
            sync.memory()
        if now - self._rows_at >= ROWS_INTERVAL_S:
            self._rows_at = now
            self.enqueue_rows()
        if now - self._snapshot_at >= self.settings.snapshot_interval:
            self._snapshot_at = now
            self.enqueue_snapshot()
        if now - self._trim_at >= TRIM_INTERVAL_S:
            self.queue.tick(now - self._trim_at if self._trim_at > 0 else 0.0)
            self._trim_at = now
            self.queue.trim()
            present = [*self._syncs, *self._waiting, *(sync.sandbox.uid for sync, _until in self._draining)]
            # Not at once after a start: after a boot the engine, or a home's disk, may come later than we do.
            patience_s = FORGET_SANDBOX_S if now - self._began > FORGET_AFTER_START_S else float("inf")
            self.queue.forget_sandboxes(present, self.queue.clock_s, patience_s)
        self.busy = more
        self.passes += 1
        return more

    def _adopt(self, now: float) -> None:
        """Take over what discovery held; let what is gone drain, then close it."""
        ready, dropped = self.finder.handed_over()
        for held in dropped:
            sync = self._syncs.pop(held.sandbox.uid, None)
            if sync is not None:
                sync.end()
                self._draining.append((sync, now + DRAIN_S))
            else:
                held.close()
        for held in ready:
            self._waiting[held.sandbox.uid] = held
        draining = {sync.sandbox.uid for sync, _until in self._draining}
        for uid in [uid for uid in self._waiting if uid not in draining and uid not in self._syncs]:
            held = self._waiting[uid]
            sync = self._syncs[uid] = SandboxSync(held, self.context)
            del self._waiting[uid]
            sync.memory(at_once=True)
            self.log("info", "sandbox", name=held.sandbox.name, uid=uid, type=held.sandbox.type, route=held.route)

    def _round(self) -> bool:
        """Give each changed source a turn, the longest-waiting first, for about half a second."""
        work = [(sync, item) for sync in self._syncs.values() for item in sync.scan()]
        for sync, until in list(self._draining):
            last = sync.scan()
            work += [(sync, item) for item in last]
            if not last or time.monotonic() > until:
                self._draining.remove((sync, until))
                self.log("info", "sandbox-released", name=sync.sandbox.name, uid=sync.sandbox.uid, complete=not last)
                sync.close()
                work = [(other, item) for other, item in work if other is not sync]
        if not work:
            return False
        # Whoever was served longest ago comes first, so one busy file cannot keep the others waiting;
        # and sandboxes take turns, so a hundred thousand files of one cannot either.
        work.sort(key=lambda entry: entry[1][1].served_at)
        seen: dict[str, int] = {}
        ranks = []
        for sync, _item in work:
            ranks.append(seen.get(sync.sandbox.uid, 0))
            seen[sync.sandbox.uid] = ranks[-1] + 1
        work = [work[index] for index in sorted(range(len(work)), key=ranks.__getitem__)]
        deadline = time.monotonic() + ROUND_S
        more = False
        for sync, (agent, file, name, meaning) in work:
            # No turn takes more than there is room for: what the queue holds beyond its bound, all others have to wait for.
            room = self.settings.queue_max_bytes - self.queue.outbox_size()[1]
            if room <= 0:
                self.log.state("queue", "full: %d bytes wait for the target; reading pauses" % self.settings.queue_max_bytes)
                return False
            more = sync.turn(agent, file, name, meaning, room) or more
            if time.monotonic() > deadline:
                more = True
                break
        self.log.state("queue", None)
        return more

    # -- what goes out besides transcripts --------------------------------------------

    def enqueue_rows(self) -> None:
        """Queue rows of changed sessions, some uploads at a time; the rest goes when those are acknowledged.

        NemoClaw's own warm-up of a sandbox is nobody's session and has none.
        """
        for sync in self._syncs.values():
            sync.quiet_sessions()
        waiting = self.queue.waiting(wire.SESSIONS)
        while waiting < MAX_ROW_UPLOADS_WAITING:
            stored = self.queue.changed_sessions(wire.SESSION_ROWS_PER_POST)
            if not stored:
                return
            warm_ups = [item for item in stored if item.session.startswith(layout.WARMUP_PREFIX)]
            if warm_ups:
                self.queue.pass_rows(warm_ups)
                continue
            rows = []
            for item in stored:
                owner = self._syncs.get(item.sandbox)
                rows.append(owner.session_row(item) if owner is not None else session_row(item, {}, None, self.sealer))
            body = wire.dumps({"node_id": self.node_id, "sessions": rows})
            key = idempotency_key("sessions", self.node_id, *((item.id, item.version) for item in stored))
            self.queue.enqueue_rows(Sealed(wire.SESSIONS, key, self.sealer.seal(body), len(rows)), stored)
            waiting += 1

    def survey(self) -> dict[str, Survey]:
        surveys = {uid: routes.survey(sync.held) for uid, sync in self._syncs.items()}
        for sandbox in self.finder.discovery.sandboxes:
            if sandbox.uid not in surveys:
                surveys[sandbox.uid] = Survey(readable=False, reason=self.finder.unreadable.get(sandbox.uid, sandbox.reason or "not held"))
        return surveys

    def enqueue_snapshot(self) -> None:
        """Queue this host's snapshot; a newer one replaces an unsent older one."""
        surveys = self.survey()
        found = self.finder.discovery
        fact = snapshot.facts(self.host, found, surveys)
        body = cloud.plaintext(self.host, fact, surveys, usage=cloud.usage(), boxes=found.sandboxes)
        plaintext = wire.dumps({"node_id": self.node_id, **body})
        envelope = self.sealer.seal(plaintext, compress=self.shipper.blob_gzip)
        self.queue.enqueue(
            Sealed(wire.SNAPSHOT, idempotency_key("snapshot", self.node_id, time.time(), plaintext), envelope, 1, slot="snapshot")
        )

    def _heartbeat_body(self) -> dict[str, Any]:
        """Return the heartbeat's cleartext: little, and nothing of what the agents do (reference/clawmetry.md §5).

        A registration that did not succeed at start is tried again here.
        """
        if not self._registered:
            outcome = self.target.register(self.node_id, self.host.hostname, self.host.machine_id_hash or "")
            self.shipper.heed(outcome)
            if outcome.verdict is Verdict.ACK:
                self._registered = True
                self.shipper.queue.set_meta("registered", self.target.url)
        runtimes = self.finder.discovery.runtimes
        found = {runtime.name: runtime.present for runtime in runtimes}
        if any(sync.held.states for sync in list(self._syncs.values())):
            found["openclaw"] = True  # discovery alone does not look into sandboxes
        return {
            "node_id": self.node_id,
            "ts": time.time(),
            "platform": platform.system(),
            "version": VERSION,
            "e2e": True,
            "node_meta": {
                "hostname": socket.gethostname(),
                "os": self.host.os_name,
                "os_release": self.host.os_release,
                "arch": self.host.arch,
            },
            "detected_runtimes": [name for name, present in found.items() if present],
            "agent_install": {"openclaw_detected": found.get("openclaw"), "nemoclaw_detected": found.get("nemoclaw")},
        }

    # -- one-shot --------------------------------------------------------------------

    def sync_once(self, deadline: float, progress: Any = lambda *_: None) -> list[str]:
        """Take everything readable now and deliver it. Returns what kept it from being complete, [] when nothing did."""
        self.finder.look()
        if "exec" in self.settings.routes:
            self.finder.look()  # the first asks no CLI, and route exec leads into what only a CLI lists
        self._rows_at = float("inf")  # once, at the end
        while time.monotonic() < deadline and not self.stop.is_set():
            more = self.one_pass()
            self._deliver(progress, deadline)
            if not more and not any(sync.scan() for sync in self._syncs.values()):
                break
            if self.shipper.blocked and not more:
                break
        for sync in self._syncs.values():
            sync.memory(at_once=True)
        while True:
            self.enqueue_rows()
            before = self.queue.outbox_size()[0]
            self._deliver(progress, deadline)
            if self.shipper.blocked or not before or time.monotonic() > deadline:
                break
        problems = ["%s: %s" % (uid, reason) for uid, reason in self.finder.unreadable.items()]
        if self.settings.only is not None and not self._syncs:
            problems.append("sandbox %s was asked for (NEMOCLAW_SANDBOX) and is not there to be read" % shown(self.settings.only))
        for sync in self._syncs.values():
            problems += ["%s: %s: %s" % (sync.sandbox.name, label, text) for label, text in sync.failures().items()]
        if self.shipper.blocked:
            problems.append("target %s: %s" % (self.shipper.health.state, self.shipper.health.reason))
        return problems

    def _deliver(self, progress: Any, deadline: float) -> None:
        """Empty the outbox; a target that only asks for patience gets a little of it."""
        while self.shipper.queue.next() is not None and not self.stop.is_set():
            health = self.shipper.health
            if self.shipper.blocked and (health.state != "retrying" or health.retries > SYNC_RETRIES):
                return
            wait_s = self.shipper.step()
            progress(self)
            if self.shipper.blocked:
                if time.monotonic() + wait_s > deadline:
                    return
                self.stop.wait(wait_s)

    def totals(self) -> dict[str, int]:
        syncs = [*self._syncs.values(), *(sync for sync, _until in self._draining)]
        return {
            "events": sum(sync.events for sync in syncs),
            "batches": sum(sync.batches for sync in syncs),
            "bytes": sum(sync.bytes for sync in syncs),
        }

    # -- what status shows ---------------------------------------------------------------

    def status(self, queue: Queue) -> dict[str, Any]:
        """Return the JSON of ``clawmetry status``; QUEUE is the calling thread's own connection."""
        now = time.time()
        counts = queue.counts()
        sources = queue.source_status()
        sizes: dict[int, tuple[int, float]] = {}
        for sync in list(self._syncs.values()):
            sizes.update(sync.sizes())
        names = {sandbox.uid: sandbox.name for sandbox in self.finder.discovery.sandboxes}
        for source in sources:
            size, waiting_s = sizes.get(source["id"], (source["size"], 0.0))
            shown_source(source, size, waiting_s, now, names.get(source["sandbox"]), self.shipper.health.retries)
        problems = {sync.sandbox.name: dict(sync.problems) for sync in list(self._syncs.values()) if sync.problems}
        health = self.shipper.health
        trouble = self.trouble or self.ship_trouble
        degraded = bool(health.state != "ok" or trouble or self.finder.unreadable or problems or counts["dead_letters"])
        return {
            "state": "degraded" if degraded else "ok",
            "version": VERSION,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._began, 1),
            "node_id": self.node_id,
            "trouble": trouble,
            "passes": self.passes,
            "target": {"url": self.target.url, "state": health.state, "reason": health.reason, "retries": health.retries,
                       "retries_total": health.retries_total, "delivered": health.delivered, "last_ack": counts["last_ack"]},
            "queue": {"pending": counts["pending"], "pending_bytes": counts["pending_bytes"], "max_bytes": self.settings.queue_max_bytes,
                      "oldest_pending_s": round(max(0.0, now - counts["oldest_pending"]), 3) if counts["oldest_pending"] else None},
            "quarantined": counts["quarantined"],
            "quarantine": queue.quarantined(),
            "dead_letters": counts["dead_letters"],
            "dead_letter_bytes": counts["dead_letter_bytes"],
            "sandboxes": [{"uid": uid, "name": sync.sandbox.name, "route": sync.held.route} for uid, sync in list(self._syncs.items())],
            "unreadable": dict(self.finder.unreadable),
            "problems": problems,
            "sources": sources,
        }  # fmt: skip
