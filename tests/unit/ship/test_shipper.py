# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The shipper's decisions, with a scripted target, a clock that stands still and jitter that is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Iterator, Optional, Union

import pytest

from clawmetry_sync import wire
from clawmetry_sync.log import Log
from clawmetry_sync.queue import Queue, Sealed, SourceRow, outbox
from clawmetry_sync.seal import Sealer
from clawmetry_sync.ship import Outcome, Verdict, shipper
from clawmetry_sync.ship.https import judge_status
from clawmetry_sync.ship.shipper import Shipper

SOURCE: dict[str, Optional[str]] = {"sandbox.name": "s", "sandbox.type": "bare", "agent": "main"}


class Script:
    """A target that gives the outcomes it was told, then acknowledges."""

    url = "script:"

    def __init__(self) -> None:
        self.outcomes: list[Union[int, Outcome]] = []
        self.beats: list[Outcome] = []
        self.sent: list[tuple[str, bytes]] = []
        self.heartbeats = 0

    def register(self, node_id: Optional[str], hostname: str, machine_id: str) -> Outcome:
        return Outcome(Verdict.ACK)

    def heartbeat(self, body: dict[str, Any]) -> Outcome:
        self.heartbeats += 1
        return self.beats.pop(0) if self.beats else Outcome(Verdict.ACK)

    def deliver(self, endpoint: str, node_id: str, key: str, envelope: bytes) -> Outcome:
        self.sent.append((key, envelope))
        told = self.outcomes.pop(0) if self.outcomes else 200
        return judge_status(told) if isinstance(told, int) else told

    def close(self) -> None:
        pass


class Bench:
    def __init__(self, directory: Path) -> None:
        self.now = 1000.0
        self.asked: list[float] = []
        self.sealer = Sealer(bytes(32))
        self.queue = Queue(str(directory / "queue.db"))
        self.target = Script()
        self.shipper = Shipper(
            self.queue, self.target, self.sealer, "n", Log("error"), heartbeat=dict, clock=lambda: self.now, uniform=self._most
        )

    def _most(self, low: float, high: float) -> float:
        assert low == 0.0
        self.asked.append(high)
        return high

    def put(self, key: str, *events: Any) -> None:
        plain = wire.events(node_id="n", session_file="s.jsonl", lines=[wire.dumps(event) for event in events], source=SOURCE)
        self.queue.enqueue(Sealed(wire.EVENTS, key, self.sealer.seal(plain), len(events)))

    def delivered(self) -> list[Any]:
        return [json.loads(self.sealer.open(envelope))["events"] for _key, envelope in self.target.sent]

    def dead(self) -> list[tuple[str, str]]:
        return list(self.queue.db.execute("SELECT key, reason FROM dead_letter ORDER BY id"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.queue.close()


def test_2xx_acknowledges_in_order(bench: Bench) -> None:
    for number in range(3):
        bench.put("k%d" % number, {"n": number})
    assert [bench.shipper.step() for _row in range(3)] == [0.0, 0.0, 0.0]
    assert [key for key, _envelope in bench.target.sent] == ["k0", "k1", "k2"]
    assert bench.queue.next() is None and bench.shipper.health.delivered == 3
    assert bench.shipper.step() == shipper.HEARTBEAT_INTERVAL_S


def test_backoff_has_full_jitter_and_a_ceiling(bench: Bench) -> None:
    bench.put("k", {"n": 1})
    bench.target.outcomes = [503] * 12
    waits = []
    for _time in range(12):
        waits.append(bench.shipper.step())
        bench.now += waits[-1]
    assert bench.asked == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 300] == waits
    assert {key for key, _envelope in bench.target.sent} == {"k"} and len({envelope for _key, envelope in bench.target.sent}) == 1
    assert bench.shipper.health.state == "retrying" and bench.shipper.health.retries == 12
    bench.shipper.step()
    assert (bench.shipper.health.state, bench.shipper.health.retries, bench.shipper.health.retries_total) == ("ok", 0, 12)


def test_nothing_is_sent_before_its_time(bench: Bench) -> None:
    bench.put("k", {"n": 1})
    bench.target.outcomes = [Outcome(Verdict.RETRY, "HTTP 503", 40.0)]
    assert bench.shipper.step() == 40.0
    bench.now += 39.5
    assert bench.shipper.step() == pytest.approx(0.5) and len(bench.target.sent) == 1
    bench.now += 1
    bench.shipper.step()
    assert len(bench.target.sent) == 2 and bench.queue.next() is None


def test_long_retry_after_wins_over_the_jitter_and_a_short_one_does_not_shorten_it(bench: Bench) -> None:
    bench.put("k", {"n": 1})
    bench.target.outcomes = [Outcome(Verdict.RETRY, "", 3000.0), Outcome(Verdict.RETRY, "", 0.0)]
    assert bench.shipper.step() == 3000
    bench.now += 3000
    assert bench.shipper.step() == 4


@pytest.mark.parametrize("status", [401, 403])
def test_refusal_pauses_and_keeps(bench: Bench, status: int) -> None:
    bench.put("k", {"n": 1})
    bench.target.outcomes = [status]
    assert bench.shipper.step() == 2 * shipper.PAUSE_BASE_S
    assert bench.shipper.health.state == "paused" and bench.shipper.blocked and str(status) in str(bench.shipper.health.reason)
    assert bench.queue.outbox_size()[0] == 1 and not bench.dead()
    bench.now += 100
    bench.shipper.step()
    assert bench.shipper.health.state == "ok" and bench.queue.next() is None


def test_413_splits_down_to_one_record_in_order(bench: Bench) -> None:
    bench.put("first", *({"n": number} for number in range(5)))
    bench.put("second", {"n": 5})

    def judge(endpoint: str, node_id: str, key: str, envelope: bytes) -> Outcome:
        events = json.loads(bench.sealer.open(envelope))["events"]
        bench.target.sent.append((key, envelope))
        return judge_status(413 if len(events) > 1 or events == [{"n": 2}] else 200)

    bench.target.deliver = judge
    while bench.queue.next() is not None:
        assert bench.shipper.step() == 0.0
    taken = [events[0]["n"] for events in bench.delivered() if len(events) == 1]
    assert taken == [0, 1, 2, 3, 4, 5]
    ((key, reason),) = bench.dead()
    assert "413" in reason and "single record" in reason
    keys = [key for key, _envelope in bench.target.sent]
    assert len(set(keys)) == len(keys), "every part has a key of its own"
    nonces = [envelope[:12] for _key, envelope in bench.target.sent]
    assert len(set(nonces)) == len(nonces)


def test_413_of_what_no_list_is_in_goes_to_the_dead_letters(bench: Bench) -> None:
    bench.queue.enqueue(Sealed(wire.MEMORY, "m", bench.sealer.seal(wire.memory(node_id="n", files=[], source=SOURCE)), 1))
    bench.queue.enqueue(Sealed(wire.EVENTS, "other-key", Sealer(b"1" * 32).seal(b"{}"), 5))
    deep = b'{"events":[' + b"[" * 5000 + b"]" * 5000 + b",{}]}"
    bench.queue.enqueue(Sealed(wire.EVENTS, "deep", bench.sealer.seal(deep), 2))
    bench.target.outcomes = [413, 413, 413]
    for _row in range(3):
        bench.shipper.step()
    assert [key for key, _reason in bench.dead()] == ["m", "other-key", "deep"] and bench.queue.next() is None


@pytest.mark.parametrize("status", [400, 404, 410, 422])
def test_other_4xx_is_a_dead_letter_and_the_next_goes_on(bench: Bench, status: int) -> None:
    bench.put("bad", {"n": 1})
    bench.put("good", {"n": 2})
    bench.target.outcomes = [status]
    assert bench.shipper.step() == 0.0 == bench.shipper.step()
    assert bench.dead() == [("bad", "HTTP %d" % status)] and bench.queue.next() is None
    assert bench.shipper.health.state == "ok"


def test_heartbeat_each_minute_whatever_else_happens(bench: Bench) -> None:
    bench.put("k", {"n": 1})
    bench.target.outcomes = [500] * 50
    for _second in range(181):
        bench.shipper.step()
        bench.now += 1
    assert bench.target.heartbeats == 4


def test_sync_not_allowed_waits_for_a_heartbeat_that_allows_it(bench: Bench) -> None:
    bench.put("k", {"n": 1})
    bench.target.beats = [Outcome(Verdict.ACK, answer={"sync_allowed": False}), Outcome(Verdict.ACK, answer={"sync_allowed": True})]
    assert bench.shipper.step() == shipper.HEARTBEAT_INTERVAL_S and not bench.target.sent
    assert bench.shipper.health.state == "paused"
    bench.now += shipper.HEARTBEAT_INTERVAL_S
    bench.shipper.step()
    assert len(bench.target.sent) == 1 and bench.shipper.health.state == "ok"


@pytest.mark.parametrize(
    "said, taken",
    [({"caps": {"blob_gzip": True}}, True), ({"caps": {"blob_gzip": 1}}, False), ({"caps": []}, False), ({"sync_allowed": 0}, False)],
)
def test_caps_are_believed_only_when_they_are_plain(bench: Bench, said: dict[str, Any], taken: bool) -> None:
    bench.target.beats = [Outcome(Verdict.ACK, answer=said)]
    bench.shipper.step()
    assert bench.shipper.blob_gzip is taken
    assert bench.shipper.health.state == "ok"


def test_answer_of_an_error_changes_nothing(bench: Bench) -> None:
    bench.target.beats = [Outcome(Verdict.RETRY, answer={"sync_allowed": False, "caps": {"blob_gzip": True}})]
    bench.shipper.step()
    assert not bench.shipper.blob_gzip and not bench.shipper.blocked


def test_dead_letters_have_room_for_so_many_bytes(bench: Bench) -> None:
    """An ingest that refuses everything: the rest stays in the outbox, which is loud, and nobody starves behind it."""
    bench.shipper._dead_letter_max_bytes = 1000
    for number in range(6):
        bench.put("k%d" % number, {"n": number, "text": "x" * 200})
    bench.target.outcomes = [404] * 20
    for _time in range(10):
        bench.now += bench.shipper.step()
    kept = len(bench.dead())
    assert 2 <= kept <= 4 and bench.queue.dead_letters_size()[1] <= 1000
    assert bench.queue.outbox_size()[0] == 6 - kept
    assert bench.shipper.health.state == "paused" and "404" in str(bench.shipper.health.reason) and bench.shipper.blocked
    # Another session's turn comes although this one is refused.
    row = SourceRow(0, 0, b"other.jsonl", 5, 1)
    sealed = Sealed(wire.EVENTS, "other", bench.sealer.seal(b'{"events":[{"text":"%s"}]}' % (b"x" * 500)), 1)
    bench.queue.commit_turn(row, ("box", b"main", b"other"), [sealed], b"", (), None)
    bench.target.outcomes = [404, 404]
    for _time in range(4):
        bench.now += bench.shipper.step()
    assert "other" in [key for key, _envelope in bench.target.sent]
    # Mended: everything goes, and what was put aside goes by a person's word.
    bench.target.outcomes.clear()
    while bench.queue.next() is not None:
        bench.now += 400 + bench.shipper.step()
    assert bench.shipper.health.state == "ok" and len(bench.dead()) == kept
    assert bench.queue.send_again() == kept and not bench.dead()
    sent = len(bench.target.sent)
    while bench.queue.next() is not None:
        bench.now += bench.shipper.step()
    assert sorted(key for key, _envelope in bench.target.sent[sent:]) == ["k0", "k1", "k2", "k3"][:kept]


def test_dead_letter_of_a_forgotten_file_can_be_sent_again(bench: Bench) -> None:
    row = SourceRow(0, 0, b"one.jsonl", 5, 1)
    sealed = Sealed(wire.EVENTS, "k", bench.sealer.seal(b"{}"), 1)
    bench.queue.commit_turn(row, ("box", b"main", b"one"), [sealed], b"", (), None)
    bench.target.outcomes = [400]
    bench.shipper.step()
    bench.queue.forget_sources([row.id])
    (letter,) = bench.queue.dead_letters()
    assert letter["file"] is None and "400" in letter["reason"]
    bench.queue.send_again()
    bench.shipper.step()
    assert [key for key, _envelope in bench.target.sent] == ["k", "k"] and bench.queue.outbox_size() == (0, 0)


def test_cleared_dead_letters_make_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "DEAD_COUNT_S", -1.0)
    bench.shipper._dead_letter_max_bytes = 400
    for number in range(3):
        bench.put("k%d" % number, {"n": number, "text": "x" * 200})
    bench.target.outcomes = [404] * 3
    for _time in range(2):
        bench.now += bench.shipper.step()
    assert len(bench.dead()) == 1 and bench.shipper.health.state == "paused"
    other = Queue(bench.queue.path, check=False)
    assert other.discard_dead_letters() == 1
    other.close()
    bench.now += 400
    bench.shipper.step()
    assert len(bench.dead()) == 1 and bench.shipper.health.state == "ok"
