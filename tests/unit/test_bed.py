# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The test bed itself: an ingest that can only say yes, or tests that leave their process, would prove nothing."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Optional

import pytest

from support.decoder import decode_key, seal_blob
from support.guard import LeftTheProcess
from support.ingest import API_KEY, EVENTS, KEY_TEXT, Fault, Ingest
from support.tls import make_certificates
from support.tree import make_tree

SOURCE = {"sandbox.name": "s", "sandbox.type": "docker", "agent": "main"}


def batch(*events: Any, **changes: Any) -> dict[str, Any]:
    return {"session_file": "a.jsonl", "node_id": "n", "events": list(events), "source": SOURCE, **changes}


def send(ingest: Ingest, plain: Any, *, key: str = "k1", context: Optional[ssl.SSLContext] = None, **changes: Any) -> int:
    envelope = {"node_id": "n", "encrypted": True, "blob": seal_blob(plain, decode_key(KEY_TEXT)), **changes}
    headers = {"X-Api-Key": API_KEY, "X-Node-Id": "n", "Content-Type": "application/json", "Idempotency-Key": key}
    request = urllib.request.Request(ingest.url + EVENTS, json.dumps(envelope).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code


@pytest.mark.network
def test_a_good_batch_is_recorded_once_however_often_it_comes() -> None:
    with Ingest() as ingest:
        for _time in range(2):
            send(ingest, batch({"seq": 1}, {"seq": 2}))
        ingest.check()
        ((_where, events),) = ingest.events.items()
        if events != ['{"seq":1}', '{"seq":2}'] or (ingest.duplicate_batches, ingest.duplicate_events) != (1, 2):
            pytest.fail(ingest.summary())


@pytest.mark.network
@pytest.mark.parametrize(
    "plain, changes",
    [
        (batch(), {}),
        (batch(*range(2)), {}),
        (batch(*({"n": n} for n in range(201))), {}),
        (batch({"n": 1}, session_file="../a.jsonl"), {}),
        (batch({"n": 1}, node_id="other"), {}),
        (batch({"n": 1}, extra=1), {}),
        (batch({"n": 1}, source={"agent": "main"}), {}),
        (batch({"n": KEY_TEXT}), {}),
        (batch({"n": 1}), {"hostname": "h"}),
        (batch({"n": 1}), {"node_id": "other"}),
        (batch({"n": 1}), {"encrypted": 1}),
        (batch({"n": 1}), {"blob": seal_blob(batch({"n": 1}), bytes(32))}),
        (batch({"n": 1}), {"blob": seal_blob(batch({"n": 1}), decode_key(KEY_TEXT), compress=True)}),
        (batch({"n": 1}), {"key": ""}),
    ],
)
def test_anything_unusual_is_a_violation(plain: Any, changes: dict[str, Any]) -> None:
    with Ingest() as ingest:
        send(ingest, plain, **changes)
        with pytest.raises(AssertionError, match="violations"):
            ingest.check()


@pytest.mark.network
def test_faults_come_in_the_order_they_were_asked_for() -> None:
    with Ingest() as ingest:
        ingest.script(EVENTS, Fault(status=503), Fault(status=429, headers={"Retry-After": "1"}))
        seen = [send(ingest, batch({"seq": 1})) for _time in range(3)]
        ingest.check()
        if seen != [503, 429, 200] or len(ingest.all_events()) != 1:
            pytest.fail("%s %s" % (seen, ingest.summary()))


@pytest.mark.network
def test_a_lost_answer_is_recorded_and_never_seen() -> None:
    with Ingest() as ingest:
        ingest.script(EVENTS, Fault(drop="after", record=True))
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            send(ingest, batch({"seq": 1}))
        ingest.wait_events(1)
        ingest.stop()
        with pytest.raises(urllib.error.URLError):
            send(ingest, batch({"seq": 2}))
        ingest.start()
        send(ingest, batch({"seq": 2}), key="k2")
        ingest.wait_events(2)


@pytest.mark.network
def test_tls_is_trusted_through_its_own_authority_alone(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    with Ingest(certificates=certificates) as ingest:
        send(ingest, batch({"seq": 1}), context=ssl.create_default_context(cafile=str(certificates.ca)))
        with pytest.raises(urllib.error.URLError):
            send(ingest, batch({"seq": 2}), context=ssl.create_default_context())
        ingest.wait_events(1)


def test_the_same_arguments_make_the_same_tree() -> None:
    first, again, other = (make_tree(sessions=2, events=20, seed=seed) for seed in (1, 1, 2))
    if first != again or first == other or first.events != 40:
        pytest.fail("%d events" % first.events)


def test_a_unit_test_cannot_leave_its_process() -> None:
    for leave in (
        lambda: subprocess.run(["true"], check=True),
        lambda: os.posix_spawn("/bin/true", ["true"], {}),
        lambda: socket.getaddrinfo("localhost", 80),
        lambda: socket.create_connection(("127.0.0.1", 9)),
    ):
        with pytest.raises(LeftTheProcess):
            leave()
