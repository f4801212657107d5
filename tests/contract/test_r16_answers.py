# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""R16: what each answer of the ingest makes us do, end to end; the table itself is tests/unit/ship/test_https.py."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from clawmetry_sync.seal import new_key
from support.ingest import API_KEY, EVENTS, HEARTBEAT, SESSIONS, Fault, Ingest
from support.node import Node, until
from support.tls import make_certificates

# Jitter as it is would make these tests wait for seconds: the same code with a millisecond for a second.
FAST = """
from clawmetry_sync.ship import shipper
shipper.BACKOFF_BASE_S = 0.02
shipper.PAUSE_BASE_S = 0.02
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Ingest() as ingest:
        node = Node(tmp_path, ingest)
        node.daemon.prelude = FAST
        yield node
        node.daemon.kill()


def target(node: Node) -> Any:
    return node.daemon.status()["target"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429),
        Fault(status=500),
        Fault(status=503),
        Fault(drop="before"),
        Fault(drop="after"),
        Fault(status=301, headers={"Location": "/ingest/elsewhere"}),
        Fault(status=307, headers={"Location": "http://127.0.0.1:1/ingest/events"}),
    ],
    ids=lambda fault: "%s%s" % (fault.drop or "status-", fault.status if not fault.drop else ""),
)
def test_r16_trouble_of_the_ingest_is_retried(node: Node, fault: Fault) -> None:
    node.append("one", 450)
    ingest = node.ingest
    ingest.script(EVENTS, *([fault] * 4))
    node.daemon.start()
    node.arrived()
    status = node.daemon.status()
    assert status["target"]["retries_total"] >= 4 and status["dead_letters"] == 0
    until(lambda: node.daemon.status()["state"] == "ok", 10, "recovery")
    assert {request.endpoint for request in ingest.requests} <= {"/auth", EVENTS, SESSIONS, HEARTBEAT, "/ingest/system-snapshot"}
    keys = [request.idempotency_key for request in ingest.requests if request.endpoint == EVENTS]
    assert len(set(keys)) == 3
    node.no_more(0.3)


def test_r16_answer_lost_after_it_was_taken(node: Node) -> None:
    """The ingest has the batch, we never heard: sent again under the same key, so that it can tell."""
    node.append("one", 5)
    node.ingest.script(EVENTS, Fault(drop="after", record=True))
    node.daemon.start()
    node.ingest.wait(lambda me: me.duplicate_batches == 1, 20, "second delivery")
    node.exact()


def test_r16_retry_after_is_honoured(node: Node) -> None:
    node.append("one", 5)
    node.ingest.script(EVENTS, Fault(status=503, headers={"Retry-After": "2"}))
    node.daemon.start()
    node.arrived()
    first, second = [request.at for request in node.ingest.requests if request.endpoint == EVENTS]
    assert second - first >= 1.9


@pytest.mark.parametrize("status", [401, 403])
def test_r16_refused_key_pauses_loudly_and_keeps_everything(node: Node, status: int) -> None:
    node.daemon.prelude = ""
    node.append("one", 450)
    ingest = node.ingest
    ingest.policy = lambda request: Fault(status=status) if request.endpoint != "/auth" else None
    node.daemon.start()
    until(lambda: target(node)["state"] == "paused", 10, "pause")
    shown = node.daemon.status()
    assert shown["state"] == "degraded" and str(status) in shown["target"]["reason"]
    until(lambda: node.daemon.status()["queue"]["pending"] >= 3, 10, "three batches kept")
    assert node.daemon.cli("status").returncode == 1
    log = node.daemon.log()
    assert "level=error" in log and str(status) in log and API_KEY not in log
    ingest.policy = None
    # The operator puts a new key in and says so: asked again at once, not at the end of the pause.
    began = time.monotonic()
    node.daemon.signal(signal.SIGHUP)
    node.arrived()
    assert time.monotonic() - began < 15
    until(lambda: node.daemon.status()["state"] == "ok", 10, "recovery")
    assert node.daemon.status()["dead_letters"] == 0
    node.no_more(0.2)


def test_r16_413_is_split_down_and_everything_else_arrives(node: Node) -> None:
    """Bodies of more than 20 kB are too large for this ingest."""
    node.append("one", 200, 300)
    node.append("two", 1, 40_000)
    node.append("two", 5)
    too_large = node.expected["two.jsonl"].pop(0)
    node.ingest.policy = lambda request: Fault(status=413) if len(request.body) > 20_000 else None
    node.daemon.start()
    node.arrived()
    status = until(lambda: (now := node.daemon.status()) and now["dead_letters"] and now, 10, "dead letter")
    assert status["dead_letters"] == 1 and too_large not in node.ingest.all_events()
    node.no_more(0.3)


def test_r16_tls_of_a_stranger_is_never_spoken_to(tmp_path: Path) -> None:
    """Not trusted, then trusted: nothing but a handshake before, everything after; no answer in between was an error for good."""
    certificates = make_certificates(tmp_path)
    with Ingest(certificates=certificates) as ingest:
        node = Node(tmp_path, ingest, node_id=None)
        node.daemon.prelude = FAST
        node.append("one", 5)
        node.daemon.start()
        until(lambda: target(node)["retries"] >= 3, 20, "retries")
        assert "ertificate" in str(target(node)["reason"]) or "SSL" in str(target(node)["reason"])
        assert not ingest.requests
        node.daemon.config["ca_file"] = str(certificates.ca)
        node.daemon.write_config()
        node.daemon.signal(signal.SIGHUP)
        node.arrived()
        node.daemon.kill()


def test_r16_outage_and_recovery(node: Node) -> None:
    """The ingest goes away in the middle, for a while, while lines keep coming."""
    node.append("one", 10)
    node.daemon.start()
    node.arrived()
    node.ingest.stop()
    for _moment in range(10):
        node.append("one", 100)
        node.append("two", 50)
        time.sleep(0.1)
    until(lambda: target(node)["state"] == "retrying", 10, "retrying")
    node.ingest.start()
    node.arrived()
    until(lambda: node.daemon.status()["state"] == "ok", 10, "recovery")
    node.no_more(0.2)


def test_r16_sync_not_allowed_pauses(node: Node) -> None:
    node.ingest.sync_allowed = False
    node.append("one", 5)
    node.daemon.start()
    until(lambda: target(node)["state"] == "paused", 10, "pause")
    time.sleep(0.5)
    assert node.ingest.count(EVENTS) <= 1
    node.ingest.sync_allowed = True
    node.daemon.signal(signal.SIGHUP)
    node.arrived()


def test_r16_key_changed_with_rows_of_the_old_one_waiting(node: Node) -> None:
    """What was sealed with a key that is gone can not hold up what comes after it."""
    node.daemon.prelude = FAST + "from clawmetry_sync import daemon\ndaemon.ROWS_INTERVAL_S = 0.3\n"
    node.append("one", 5)
    node.daemon.start()
    node.arrived()
    node.ingest.stop()
    node.append("one", 5)
    # A row of the session waits as well, behind the batch.
    until(lambda: node.daemon.status()["queue"]["pending"] >= 2, 10, "a waiting batch and row")
    node.daemon.kill()
    key = new_key()
    (node.daemon.directory / "encryption_key").write_text(key + "\n")
    node.ingest.start()
    node.append("two", 5)
    node.daemon.start()
    until(lambda: node.daemon.status()["queue"]["pending"] == 0, 10, "empty outbox")
    assert node.daemon.status()["dead_letters"] >= 1
