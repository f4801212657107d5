# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A daemon under random faults for a while (contract R29): what was lost, and what memory and descriptors did.

Two acts. In the first the process dies as well: SIGKILL, SIGTERM, a start without waiting. In the second one
process has to live through everything else, so that the slope of its memory means something. At the end all
faults stop, and every line that was written must have arrived, once, each file's lines in their order.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

from support.ingest import EVENTS, HEARTBEAT, SESSIONS, Fault, Ingest
from support.node import Node
from support.tree import dumps

# The same code with milliseconds for seconds: in the time there is, more can happen.
FAST = """
from clawmetry_sync import daemon
from clawmetry_sync.ship import shipper
from clawmetry_sync.sync import watch
daemon.TROUBLE_PAUSE_S = 0.3
shipper.BACKOFF_BASE_S = shipper.PAUSE_BASE_S = 0.05
watch.FORGET_AFTER_S = 15.0
"""
FIRST_ACT = 0.3
STEP_S = 0.02
DISK_MIB = 48


@dataclass
class Session:
    """What was written under one session's name: the numbers of its lines, by the file they were written to."""

    name: str
    parts: list[list[int]] = field(default_factory=lambda: [[]])
    written: int = 0
    half: bytes = b""


@dataclass
class Sample:
    at_s: float
    rss_kib: int
    fds: int
    calm: bool


class Soak:
    """One run. ``run`` returns the figures; raises AssertionError when anything was lost, doubled or out of order."""

    def __init__(self, directory: Path, ingest: Ingest, *, seconds: float, seed: int = 1, per_second: float = 150.0) -> None:
        self.ingest = ingest
        self.seconds = seconds
        self.chance = random.Random(seed)
        self.per_second = per_second
        self.state = directory / "state"
        self.node = Node(directory, ingest, state_dir=str(self.state), poll_interval=0.1, queue_max_bytes=4 << 20, snapshot_interval=5)
        self.node.daemon.state_dir = self.state
        self.node.daemon.prelude = FAST
        self.sessions = [Session("s%03d" % number) for number in range(6)]
        self.all = list(self.sessions)
        self.samples: list[Sample] = []
        self.faults: dict[str, int] = {}
        self.poison = 0
        self._undo: list[tuple[float, Callable[[], None]]] = []
        self._calm_at = 0.0
        self._due = 0.0

    # -- the writer ---------------------------------------------------------------------------------------------------

    def write_some(self, seconds: float) -> None:
        self._due += seconds * self.per_second
        while self._due >= 1:
            self._due -= 1
            session = self.chance.choice(self.sessions)
            self.put(session, self.line(session))

    def line(self, session: Session) -> bytes:
        number = session.written
        session.written += 1
        session.parts[-1].append(number)
        return dumps({"type": "message", "seq": number, "text": "x" * self.chance.randrange(700)})

    def put(self, session: Session, line: bytes) -> None:
        """Append, now and then only a part of it: the rest comes before the next line."""
        data = session.half + line
        cut = self.chance.randrange(1, len(data)) if self.chance.random() < 0.05 else len(data)
        session.half = data[cut:]
        with contextlib.suppress(FileNotFoundError):  # its directory is away for a moment
            self.node.write(session.name, data[:cut])
            return
        session.half = data

    def whole(self, session: Session) -> bool:
        """Write what is left of a line. False while that cannot be done."""
        if session.half:
            try:
                self.node.write(session.name, session.half)
            except FileNotFoundError:
                return False
            session.half = b""
        return self.node.path(session.name).exists()

    # -- what happens to files ---------------------------------------------------------------------------------------

    def rotate(self, session: Session) -> None:
        stamp = "2026-11-21T%02d-%02d-%02d.%03dZ" % (len(session.parts) // 3600, len(session.parts) // 60 % 60, len(session.parts) % 60, 0)
        path = self.node.path(session.name)
        path.rename(path.with_name("%s.jsonl.reset.%s" % (session.name, stamp)))
        session.parts.append([])

    def replace(self, session: Session) -> None:
        path = self.node.path(session.name)
        copy = path.with_name("copy.tmp")
        copy.write_bytes(path.read_bytes() + self.line(session))
        copy.rename(path)

    def rewrite(self, session: Session) -> None:
        data = self.node.path(session.name).read_bytes()
        self.node.write(session.name, data + self.line(session), mode="wb")

    def touch(self, session: Session) -> None:
        moment = self.chance.choice((0, 1 << 33, time.time() - 86400, time.time() + 86400))
        os.utime(self.node.path(session.name), (moment, moment))

    def spoil(self, session: Session) -> None:
        self.poison += 1
        self.node.write(session.name, self.chance.choice((b"not json %d\n", b'{"x":"\xff%d"}\n', b'["%d"]\n')) % self.poison)

    def retire(self, session: Session) -> None:
        """A session ends and its files are deleted, once all of it has arrived."""
        if self.received(session) == session.written:
            for path in self.node.sessions.glob(session.name + ".jsonl*"):
                path.unlink()
            self.sessions.remove(session)
            self.all.append(Session("s%03d" % len(self.all)))
            self.sessions.append(self.all[-1])

    # -- what happens to the process, the machine and the network ------------------------------------------------------

    def later(self, seconds: float, undo: Callable[[], None]) -> None:
        self._undo.append((time.monotonic() + seconds, undo))

    def kill(self) -> None:
        self.node.daemon.kill()
        # A start on a full disk ends, as it should.
        self.node.daemon.start(wait_s=0 if (self.state / "filler").exists() else self.chance.choice((0, 20)))

    def terminate(self) -> None:
        self.end_faults()  # of a process that is stopped nothing can be asked
        if self.ready():
            if self.node.daemon.terminate() != 0:
                raise AssertionError("SIGTERM: " + self.node.daemon.log())
            self.node.daemon.start()

    def reload(self) -> None:
        if self.ready():
            self.node.daemon.signal(signal.SIGHUP)

    def stop_process(self) -> None:
        process = self.process()
        process.send_signal(signal.SIGSTOP)
        self.later(self.chance.uniform(0.2, 3), lambda: process.send_signal(signal.SIGCONT))

    def no_descriptors(self) -> None:
        pid = self.process().pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        if not self.ready() or limits[0] == 3:
            return  # a start without descriptors ends, as it should; and one such fault at a time
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))

        def undo() -> None:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)

        self.later(self.chance.uniform(0.2, 2), undo)

    def full_disk(self) -> None:
        filler = self.state / "filler"
        if not self.state.is_mount() or filler.exists():
            return
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as stream:
            for _number in range(DISK_MIB * 256 + 256):
                stream.write(b"x" * 4096)
        self.later(self.chance.uniform(0.2, 2), lambda: filler.unlink(missing_ok=True))

    def directory_away(self) -> None:
        away = self.node.sessions.with_name("away")
        if not away.exists():
            self.node.sessions.rename(away)
            self.later(self.chance.uniform(0.1, 1.5), lambda: away.rename(self.node.sessions) and None)

    def outage(self) -> None:
        if self.ingest.listening:
            self.ingest.stop()
            self.later(self.chance.uniform(0.5, 4), self.ingest.start)

    def answers(self) -> None:
        """For some seconds the ingest answers badly, one way or another."""
        fault = self.chance.choice(
            (
                Fault(status=500),
                Fault(status=503, headers={"Retry-After": "1"}),
                Fault(status=429),
                Fault(status=401),
                Fault(status=413),
                Fault(drop="before"),
                Fault(drop="after"),
                Fault(drop="after", record=True),
                Fault(delay_s=0.5),
            )
        )
        chance = random.Random(self.chance.random())

        def policy(request: Any) -> Optional[Fault]:
            if fault.status == 413 and (request.endpoint != EVENTS or len(request.body) < 4000):
                return None
            return fault if request.endpoint in (EVENTS, SESSIONS, HEARTBEAT) and chance.random() < 0.8 else None

        self.ingest.policy = policy

        def undo() -> None:
            if self.ingest.policy is policy:
                self.ingest.policy = None

        self.later(self.chance.uniform(0.5, 4), undo)

    # -- the run ---------------------------------------------------------------------------------------------------------

    def process(self) -> subprocess.Popen[bytes]:
        if self.node.daemon.process is None:
            raise AssertionError("the daemon does not run")
        return self.node.daemon.process

    def ready(self) -> bool:
        return (self.state / "status.sock").exists()

    def received(self, session: Session) -> int:
        return sum(len(events) for key, events in list(self.ingest.events.items()) if key[1] == session.name + ".jsonl")

    def run(self) -> dict[str, Any]:
        """Two acts, then the reckoning."""
        self.node.daemon.start()
        began = time.monotonic()
        of_files = [self.rotate, self.replace, self.rewrite, self.touch, self.spoil, self.retire]
        gentle = [self.reload, self.stop_process, self.no_descriptors, self.full_disk, self.directory_away, self.outage, self.answers]
        rough = [*gentle, self.kill, self.kill, self.terminate]
        second_act = began + self.seconds * FIRST_ACT
        self.act(second_act, of_files, rough, 2.0)
        self.strike(self.kill)  # Chance may have spared it, in a short run.
        self.calm_down()
        self.samples.clear()
        pid = self.process().pid
        self.act(began + self.seconds, of_files, gentle, 6.0)
        self.calm_down()
        if self.process().pid != pid or self.process().poll() is not None:
            raise AssertionError("it did not live through the second act: " + self.node.daemon.log())
        self.finish()
        figures = self.figures()
        if self.node.daemon.terminate() != 0:
            raise AssertionError("the last SIGTERM: " + self.node.daemon.log())
        return figures

    def act(self, until: float, of_files: list[Callable[[Session], None]], faults: list[Callable[[], None]], most_s: float) -> None:
        """Write until UNTIL, with something done to a file every second, and a fault at the latest after MOST_S seconds."""
        next_change = next_fault = next_sample = last = time.monotonic()
        while (now := time.monotonic()) < until:
            self.write_some(now - last)
            last = now
            for entry in [entry for entry in self._undo if entry[0] <= now]:
                self._undo.remove(entry)
                entry[1]()
                self._calm_at = now + 2.0
            if now >= next_change:
                next_change = now + self.chance.uniform(0.1, 1.0)
                session = self.chance.choice(self.sessions)
                if self.whole(session):
                    self.chance.choice(of_files)(session)
            if now >= next_fault:
                next_fault = now + self.chance.uniform(0.5, most_s)
                self.strike(self.chance.choice(faults))
                self._calm_at = now + 2.0
            if now >= next_sample:
                next_sample = now + 0.5
                self.sample(now)
            time.sleep(STEP_S)

    def strike(self, fault: Callable[[], None]) -> None:
        self.faults[fault.__name__] = self.faults.get(fault.__name__, 0) + 1
        fault()

    def sample(self, now: float) -> None:
        process = self.process()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fds = len(os.listdir("/proc/%d/fd" % process.pid))
            calm = not self._undo and now >= self._calm_at and self.ingest.policy is None
            self.samples.append(Sample(now, self.node.daemon.rss_kib("VmRSS"), fds, calm))

    def end_faults(self) -> None:
        while self._undo:
            self._undo.pop(0)[1]()

    def calm_down(self) -> None:
        """End every fault; the daemon is up and well."""
        self.end_faults()
        if self.process().poll() is not None:
            # A start on a full disk, or without descriptors, says so and leaves; the service manager starts it again.
            self.node.daemon.kill()
            self.node.daemon.start()
        self.node.daemon.wait_ready()

    def finish(self) -> None:
        for session in self.sessions:
            self.whole(session)
        deadline = time.monotonic() + 60
        while any(self.received(session) < session.written for session in self.all) and time.monotonic() < deadline:
            time.sleep(0.2)
        self.ingest.check()
        for session in self.all:
            self.check(session)

    def check(self, session: Session) -> None:
        found = {key[0]: events for key, events in self.ingest.events.items() if key[1] == session.name + ".jsonl"}
        got = [int(number) for events in found.values() for number in events]
        if len(found) > 1:
            raise AssertionError("%s: it went under several names: %s" % (session.name, list(found)))
        if sorted(got) != list(range(session.written)):
            missing = sorted(set(range(session.written)) - set(got))
            seen = "%d of %d lines, missing %s, %d twice" % (len(got), session.written, missing[:10], len(got) - len(set(got)))
            how = "faults %s; %s\n%s" % (self.faults, self.ingest.summary(), self.node.daemon.log())
            raise AssertionError("%s: %s; %s" % (session.name, seen, how))
        place = {number: index for index, number in enumerate(got)}
        for part in session.parts:
            for before, after in zip(part, part[1:]):
                if place[before] > place[after]:
                    near = got[max(0, place[after] - 3) : place[after] + 3], got[max(0, place[before] - 3) : place[before] + 3]
                    files = [(each[0], each[-1]) for each in session.parts if each]
                    seen = "line %d came before line %d of the same file: %s … %s; files %s" % (after, before, *near, files)
                    raise AssertionError("%s: %s\n%s" % (session.name, seen, self.node.daemon.log()))

    # -- figures ---------------------------------------------------------------------------------------------------------

    def figures(self) -> dict[str, Any]:
        """Memory and descriptors over the second act; the first fifth of it is warming up."""
        samples = self.samples[len(self.samples) // 5 :]
        quarter = max(1, len(samples) // 4)
        calm = [sample.fds for sample in samples if sample.calm]
        halves = calm[: len(calm) // 2] or [0], calm[len(calm) // 2 :] or [0]
        began = samples[0].at_s
        slope, _start = statistics.linear_regression([(item.at_s - began) / 60 for item in samples], [item.rss_kib for item in samples])
        return {
            "seconds": round(self.seconds),
            "lines": sum(session.written for session in self.all),
            "lost": 0,
            "poison": self.poison,
            "faults": self.faults,
            "batches_again": self.ingest.duplicate_batches,
            "rss_kib_first_quarter": round(statistics.median(item.rss_kib for item in samples[:quarter])),
            "rss_kib_last_quarter": round(statistics.median(item.rss_kib for item in samples[-quarter:])),
            "rss_kib_slope_per_min": round(slope, 1),
            "rss_kib_peak": self.node.daemon.rss_kib(),
            "fds_calm": [[min(half), round(statistics.median(half)), max(half)] for half in halves],
            "cpu_s": round(self.node.daemon.cpu_s(), 1),
        }


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """PLACE on a file system of its own, so that it can be filled (root only; others go without)."""
    place.mkdir(mode=0o700)
    if os.geteuid() != 0:
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%dm,mode=0700" % DISK_MIB, "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@contextlib.contextmanager
def soak(directory: Path, **options: Any) -> Iterator[Soak]:
    with small_disk(directory / "state"), Ingest(keep_bodies=False, record=lambda event: str(event["seq"])) as ingest:
        run = Soak(directory, ingest, **options)
        try:
            yield run
        finally:
            run.node.daemon.kill()


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--minutes", type=float, default=30.0)
    arguments.add_argument("--seed", type=int, default=int(time.time()))
    args = arguments.parse_args()
    sys.stderr.write("seed %d\n" % args.seed)
    with tempfile.TemporaryDirectory() as scratch, soak(Path(scratch), seconds=args.minutes * 60, seed=args.seed) as run:
        sys.stdout.write(json.dumps(run.run(), indent=2) + "\n")
    return 0
