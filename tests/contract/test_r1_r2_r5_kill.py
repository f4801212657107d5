# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""R1: kill -9 at any moment loses no complete line and sends at most one batch again."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from support.ingest import EVENTS, Fault, Ingest
from support.node import Node, Writer, until

ROUNDS = 100
BATCH = 200

# Each name of a step is a place of the state machine; the process dies when it has come there so often.
STEPS = {
    "read": "after(tail, 'read_turn')",
    "seal": "after(seal.Sealer, 'seal')",
    "enqueue": "after(queue.Queue, '_store_cursor')",  # inside the transaction, before its COMMIT
    "enqueued": "after(queue.Queue, 'commit_turn')",
    "POST": "before(https.HttpsTarget, 'deliver')",
    "2xx": "after(https.HttpsTarget, 'deliver')",
    "ack": "after(queue.Queue, 'set_meta', lambda _self, key, _value: key == 'last_ack')",  # before its COMMIT
    "acked": "after(queue.Queue, 'ack')",
}
PRELUDE = """
import os, signal
from clawmetry_sync import queue, seal
from clawmetry_sync.read import tail
from clawmetry_sync.ship import https
left = [%d]
def die():
    left[0] -= 1
    if left[0] <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
def before(owner, name):
    real = getattr(owner, name)
    def wrapped(*a, **k):
        die()
        return real(*a, **k)
    setattr(owner, name, wrapped)
def after(owner, name, when=lambda *a: True):
    real = getattr(owner, name)
    def wrapped(*a, **k):
        answer = real(*a, **k)
        if when(*a):
            die()
        return answer
    setattr(owner, name, wrapped)
%s
"""


def test_r1_kill9_loses_no_complete_line(tmp_path: Path) -> None:
    chance = random.Random(9)
    with Ingest(keep_bodies=False) as ingest:
        node = Node(tmp_path, ingest, poll_interval=0.05)
        with Writer(node, ["one", "two", "three"]) as writer:
            for number in range(ROUNDS):
                # A third of the kills falls into the start itself.
                node.daemon.start(wait_s=0 if number % 3 == 0 else 20)
                time.sleep(chance.uniform(0, 1.0))
                node.daemon.kill()
        node.daemon.start()
        node.arrived(60)
        node.daemon.kill()
        print("R1: %d lines, %d kills, lost 0, %s" % (writer.count, ROUNDS, ingest.summary()))
        assert ingest.duplicate_batches <= ROUNDS
        assert ingest.duplicate_events <= ROUNDS * BATCH
        assert writer.count > ROUNDS * 100


def test_r1_kill9_at_each_named_step(tmp_path: Path) -> None:
    again: dict[str, int] = {}
    with Ingest(keep_bodies=False) as ingest:
        node = Node(tmp_path, ingest, poll_interval=0.05)
        with Writer(node, ["one", "two"]):
            for step, patch in STEPS.items():
                before = ingest.duplicate_batches
                for times in (1, 2, 5):
                    node.daemon.prelude = PRELUDE % (times, patch)
                    node.daemon.start(wait_s=0)
                    process = node.daemon.process
                    assert process is not None and process.wait(20) == -9, "%s: %s" % (step, node.daemon.log())
                    node.daemon.kill()
                again[step] = ingest.duplicate_batches - before
        node.daemon.prelude = ""
        node.daemon.start()
        node.arrived(30)
        node.daemon.kill()
        print("R1 by step: batches sent again %s" % again)
        # One request is in flight at a time, so each kill repeats one batch at the most, wherever the other thread stood.
        assert ingest.duplicate_batches <= 3 * len(STEPS)
        assert ingest.duplicate_events <= ingest.duplicate_batches * BATCH


def test_r1_kill9_while_queue_db_is_made(tmp_path: Path) -> None:
    """The very first start dies half way through making its state; the next one must not find it damaged."""
    with Ingest() as ingest:
        for number, place in enumerate(("_connect", "journal_mode", "CREATE TABLE outbox", "user_version=", "rename", "fsync")):
            node = Node(tmp_path / str(number), ingest)
            node.daemon.prelude = FIRST_START % place
            node.append("one-%d" % number, 3)
            node.daemon.start(wait_s=0)
            process = node.daemon.process
            assert process is not None
            until(lambda process=process: process.poll() is not None or ingest.count(EVENTS), 10, "end of the first start")
            node.daemon.kill()
            node.daemon.prelude = ""
            node.daemon.start()
            ingest.wait(lambda me, name="one-%d.jsonl" % number: any(key[1] == name for key in me.events), 10, "event after " + place)
            node.daemon.kill()
        ingest.check()


FIRST_START = """
import os, signal, sqlite3
place = %r
def die():
    os.kill(os.getpid(), signal.SIGKILL)
class Dying(sqlite3.Connection):
    def execute(self, statement, *a):
        answer = super().execute(statement, *a)
        if place in statement:
            die()
        return answer
real_connect, real_rename, real_fsync = sqlite3.connect, os.rename, os.fsync
def connect(*a, **k):
    answer = real_connect(*a, factory=Dying, **k)
    if place == "_connect":
        answer.execute("PRAGMA user_version").fetchone()
        die()
    return answer
def rename(*a, **k):
    real_rename(*a, **k)
    if place == "rename":
        die()
def fsync(fd):
    real_fsync(fd)
    if place == "fsync":
        die()
sqlite3.connect, os.rename, os.replace, os.fsync = connect, rename, rename, fsync
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_r2_r5_unacknowledged_batch_is_sent_again_with_its_key(tmp_path: Path, when: str) -> None:
    """The ingest holds the first batch's answer back; the daemon dies; the same batch comes first again, nothing in between."""
    with Ingest() as ingest:
        node = Node(tmp_path, ingest)
        node.append("one", 450)
        ingest.script(EVENTS, Fault(delay_s=3, drop="after", record=when == "after"))
        node.daemon.start()
        ingest.wait(lambda me: bool(me.requests and me.requests[-1].endpoint == EVENTS), 20, "first batch")
        time.sleep(0.3)
        assert ingest.count(EVENTS) == 1, "a second batch overtook the first"
        node.daemon.kill()
        node.daemon.start()
        node.arrived()
        node.daemon.kill()
        first, second, *rest = [request for request in ingest.requests if request.endpoint == EVENTS]
        assert first.idempotency_key and first.idempotency_key == second.idempotency_key
        assert first.plain == second.plain and first.body == second.body
        keys = [request.idempotency_key for request in rest]
        assert len(set(keys)) == len(keys) and first.idempotency_key not in keys
        assert ingest.duplicate_batches == (1 if when == "after" else 0)
