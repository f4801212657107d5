# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""S9 to S13: nothing a sandbox can make large, many, deep or twisted costs more than bounded memory and time."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.daemon import Daemon
from support.decoder import decode_key, open_blob
from support.ingest import EVENTS, KEY_TEXT, Fault, Ingest, canonical
from support.node import Node, until
from support.sandbox import STATE, Sandbox, openshell_0_0_72
from support.tree import dumps, numbered

MAX_RSS_KIB = 80 * 1024
MAX_DELAY_S = 5.0  # R18: nobody waits longer because of somebody else
SESSIONS = STATE + "/agents/main/sessions"


@dataclass
class Scene:
    """A hostile sandbox, an honest one, and the daemon that reads both."""

    hostile: Sandbox
    honest: Sandbox
    ingest: Ingest
    daemon: Daemon
    asked: int = 0

    def plant(self, script: str, *arguments: str, stdin: Any = None) -> None:
        self.hostile.sh("set -e; mkdir -p %s; cd %s; %s" % (SESSIONS, SESSIONS, script), *arguments, stdin=stdin, user="0")

    def start(self) -> None:
        self.daemon.start(wait_s=60)

    def delay_s(self) -> float:
        """Return how long a new line of the honest sandbox takes to arrive."""
        self.asked += 1
        event = numbered(self.asked)
        began = time.monotonic()
        self.honest.append("honest.jsonl", event)
        self.ingest.wait(lambda me: canonical(event) in me.all_events(), 30, "honest line %d" % self.asked)
        return time.monotonic() - began

    def all_fair(self, seconds: float) -> None:
        """For some time the honest sandbox is served in time; memory has not grown past the bound at its end."""
        deadline = time.monotonic() + seconds
        delays = [self.delay_s()]
        while time.monotonic() < deadline:
            time.sleep(0.3)
            delays.append(self.delay_s())
        assert max(delays) <= MAX_DELAY_S, delays
        self.check()

    def check(self) -> None:
        peak = self.daemon.rss_kib()
        print("VmHWM %d KiB" % peak)
        assert peak <= MAX_RSS_KIB, "VmHWM %d KiB" % peak
        self.ingest.check()
        assert self.ingest.duplicate_events == 0

    def of_hostile(self) -> list[str]:
        return [
            event for (source, _name), events in list(self.ingest.events.items()) if source.name == self.hostile.name for event in events
        ]


@pytest.fixture
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        hostile = stack.enter_context(openshell_0_0_72("size-hostile", options=getattr(request, "param", ())))
        honest = stack.enter_context(openshell_0_0_72("size-honest"))
        ingest = stack.enter_context(Ingest(keep_bodies=False))
        names = {"include": [hostile.name, honest.name]}
        daemon = Daemon(tmp_path / "node", ingest_url=ingest.url, sandboxes=names)
        stack.callback(daemon.kill)
        try:
            yield Scene(hostile, honest, ingest, daemon)
        except BaseException:
            print(daemon.log())
            raise


def test_s9_sparse_files_of_10_gb(scene: Scene) -> None:
    """Holes are passed over, never read; what is after them arrives, their length is quarantined."""
    script = (
        "truncate -s 10G hole.jsonl; truncate -s 10G sessions.json; "
        "mkdir -p ../../../workspace; truncate -s 10G ../../../workspace/MEMORY.md; "
    )
    script += "echo '{\"before\":1}' >gap.jsonl; truncate -s 10G gap.jsonl; printf '\\n{\"after\":1}\\n' >>gap.jsonl"
    scene.plant(script)
    scene.start()
    until(lambda: len(scene.of_hostile()) == 2, 30, "lines around the hole")
    cpu = scene.daemon.cpu_s()
    scene.all_fair(3)
    assert scene.of_hostile() == ['{"before":1}', '{"after":1}']
    quarantine = scene.daemon.status()["quarantine"]
    assert [(entry["file"], entry["length"] > 10 << 29) for entry in quarantine] == [("gap.jsonl", True)]
    # Once passed, a hole costs nothing: no pass walks it again.
    assert scene.daemon.cpu_s() - cpu < 2.5
    for upload in scene.ingest.memory:
        assert len(upload["memory_content"][0]["content"]) <= 100_000


def test_s10_a_line_of_300_mb(scene: Scene) -> None:
    """It is hashed as it goes by, quarantined once, and what follows it arrives."""
    scene.plant("echo '{\"first\":1}' >x.jsonl; head -c 300000000 /dev/zero | tr '\\0' a >>x.jsonl")
    scene.start()
    until(lambda: scene.of_hostile() == ['{"first":1}'], 30, "line before")
    scene.all_fair(2)
    scene.plant("printf '\\n{\"second\":1}\\n' >>x.jsonl")
    until(lambda: scene.of_hostile() == ['{"first":1}', '{"second":1}'], 30, "line after")
    entry = scene.daemon.status()["quarantine"][0]
    assert (entry["offset"], entry["length"], entry["reason"]) == (12, 300_000_000, "longer than 8388608 bytes")
    scene.check()


def test_s10_the_largest_records_that_are_taken(scene: Scene) -> None:
    """Eight records of just under 8 MiB, which an image may well be: sealed and sent within the bound."""
    scene.ingest.caps = {"blob_gzip": True}
    body = 'i=0; while [ $i -lt 8 ]; do printf \'{"n":%d,"data":"\' $i >>x.jsonl; head -c 6270000 /dev/urandom | base64 -w 0 >>x.jsonl; '
    scene.plant(body + "printf '\"}\\n' >>x.jsonl; i=$((i+1)); done")
    scene.start()
    until(lambda: len(scene.of_hostile()) == 8, 60, "eight large records")
    assert [json.loads(event)["n"] for event in scene.of_hostile()] == list(range(8))
    scene.all_fair(1)


@pytest.mark.parametrize("scene", [("--tmpfs", "/sandbox:size=4g,nr_inodes=1m")], indirect=True, ids=["in memory"])
def test_s11_200_000_files(scene: Scene) -> None:
    """More than is read: the rest is said to be left out, and nobody waits for it."""
    scene.plant("n=0; while [ $n -lt 200 ]; do i=0; while [ $i -lt 1000 ]; do echo '{}' >$n-$i.jsonl; i=$((i+1)); done; n=$((n+1)); done")
    scene.start()
    scene.all_fair(15)
    problems = scene.daemon.status()["problems"][scene.hostile.name]
    assert any("the rest is not read" in text for text in problems.values()), problems
    assert len(scene.of_hostile()) > 100  # it is served as well


def test_s11_a_deep_tree_and_many_agents(scene: Scene) -> None:
    """300 directories inside one another, 2,000 agents, 2,000 workspaces: only what has a place in the layout is looked at."""
    deep = ""
    for place in (".", "../../../workspace/memory", "../../../agents/deep"):
        deep += ("mkdir -p %s; cd %s; i=0; while [ $i -lt 300 ]; do mkdir x; cd x; i=$((i+1)); done; echo '{}' >x.jsonl; cd %s; ") % (
            place,
            place,
            SESSIONS,
        )
    many = (
        "cd ../../..; i=0; while [ $i -lt 2000 ]; do mkdir -p agents/a$i/sessions workspace-$i; "
        "echo '{}' >agents/a$i/sessions/x.jsonl; i=$((i+1)); done"
    )
    scene.plant(deep + many)
    scene.start()
    scene.all_fair(6)
    assert len(scene.of_hostile()) <= 600


BOMBS = {
    "deep-lists": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep-objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep-open": b'{"a":' + b"[" * 1_000_000,
    "deep-enough-for-some": b'{"a":' + b"[" * 990 + b"]" * 990 + b"}",
    "deep-with-surrogate": b'{"s":"\\ud800","a":' + b"[" * 970 + b"]" * 970 + b"}",
    "long-number": b'{"a":' + b"9" * 1_000_000 + b"}",
    "long-number-just": b'{"a":' + b"9" * 5_000 + b"}",
    "nan": b'{"a":NaN}',
    "infinity": b'{"a":-Infinity}',
    "many-lists": b'{"a":[' + b"[]," * 2_500_000 + b"1]}",
    "many-objects": b'{"a":[' + b'{"a":1},' * 900_000 + b"1]}",
    "many-texts": b'{"a":[' + b'"b",' * 1_900_000 + b"1]}",
    "open-text": b'{"a":"' + b'\\",' * 2_500_000,
    "not-an-object": b"[1]",
    "bom": b'\xef\xbb\xbf{"a":1}',
    "twice": b'{"a":1}{"b":2}',
    "not-utf8": b'{"a":"\xff\xfe"}',
    "nul": b'{"a":"\0"}',
}
FINE = {
    "duplicate-keys": b'{"a":1,"a":2,"a":3}',
    "lone-surrogate": b'{"a":"\\ud800"}',
    "surrogate-as-key": b'{"\\udfff":1,"timestamp":"\\ud800","type":"model_change","modelId":"\\ud800"}',
    "large-exponent": b'{"a":1e999,"b":-1e-999}',
    "long-fraction": b'{"a":0.' + b"3" * 100_000 + b"}",
    "depth-400": b'{"a":' + b"[" * 400 + b"]" * 400 + b"}",
    "commas-in-a-text": b'{"a":"' + b"1,2,[{" * 500_000 + b'"}',
    "odd-usage": b'{"message":{"usage":{"totalTokens":-5,"cost":{"total":1e308}},"model":["x"]},"timestamp":{"a":1}}',
    "odd-usage-2": b'{"message":{"usage":{"totalTokens":123456789012345678901234567890,"cost":{"total":-1}},"model":""},"timestamp":""}',
    "odd-time": b'{"timestamp":"0001-01-01T00:00:00+23:59","message":{"usage":{"totalTokens":true}}}',
    "odd-time-2": b'{"timestamp":"9999-12-31T23:59:59-23:59"}',
}


def test_s13_json_bombs(scene: Scene) -> None:
    """Each is quarantined once or taken as it is; the lines beside it arrive, and other parsers can read what we send."""
    for name, bomb in {**BOMBS, **FINE}.items():
        around = dumps({"before": name}) + bomb + b"\n" + dumps({"after": name})
        scene.plant('cat >"$1"', name + ".jsonl", stdin=around)

    # The ingest finds batches of several events too large, so that they are opened, parsed and split on our side as well.
    def too_large(request: Any) -> Any:
        if request.endpoint == EVENTS and len(open_blob(json.loads(request.body)["blob"], decode_key(KEY_TEXT))["events"]) > 1:
            return Fault(status=413)
        return None

    scene.ingest.policy = too_large
    scene.start()
    wanted = 2 * len(BOMBS) + 3 * len(FINE)
    until(lambda: len(scene.of_hostile()) + scene.daemon.status()["dead_letters"] >= wanted, 60, "lines around the bombs")
    status = scene.daemon.status()
    assert status["dead_letters"] == 0, status
    assert sorted(entry["file"] for entry in status["quarantine"]) == sorted(name + ".jsonl" for name in BOMBS)
    for (source, session), events in scene.ingest.events.items():
        if source.name == scene.hostile.name:
            kind = session[: -len(".jsonl")]
            assert events[0] == canonical({"before": kind}) and events[-1] == canonical({"after": kind})
            assert len(events) == (3 if kind in FINE else 2)
    scene.all_fair(1)


INDEXES = {
    "deep": b'{"a":' * 500_000,
    "lists": b'{"a":[' + b"[]," * 2_500_000 + b"1]}",
    "objects": b"{" + b",".join(b'"k%d":{"sessionId":"s%d"}' % (number, number) for number in range(150_000)) + b"}",
    "nested": b'{"k":{"sessionId":"x","label":' + b"[" * 900 + b"]" * 900 + b"}}",
    "number": b'{"k":{"sessionId":"x","updatedAt":' + b"9" * 3_000_000 + b"}}",
    "large": b'{"k":{"sessionId":"x","label":"' + b"t" * 15_000_000 + b'"}}',
    "names": json.dumps(
        {"\x1b[31m$(id)\n\u202e": {"sessionId": "x", "label": "\x00\x1b]0;x\x07\ud800", "channel": "%s\n", "chatType": "`id`"}}
    ).encode(),
}


def test_s13_index_bombs(scene: Scene) -> None:
    """sessions.json of every agent is a bomb: titles may be missing, transcripts not."""
    for name, bomb in INDEXES.items():
        scene.plant(
            'mkdir -p "../../$1/sessions"; cat >"../../$1/sessions/sessions.json"; echo "{}" >"../../$1/sessions/x.jsonl"', name, stdin=bomb
        )
    scene.start()
    until(lambda: len(scene.of_hostile()) == len(INDEXES), 60, "transcripts beside the bombs")
    scene.all_fair(2)


@pytest.mark.parametrize("line", [b"{}\n", b"%d\n"], ids=["records", "poison"])
def test_s10_millions_of_tiny_lines(tmp_path: Path, line: bytes, record_property: Any) -> None:
    """A megabyte holds half a million of them; what is kept of each must not add up."""
    count = 400_000
    with Ingest(keep_bodies=False, record=lambda event: "") as ingest:
        node = Node(tmp_path, ingest)
        node.write("tiny", b"".join(line % number if b"%" in line else line for number in range(count)))
        node.daemon.start()
        until(lambda: node.daemon.status()["sources"], 20, "source")
        until(lambda: node.daemon.status()["sources"][0]["lag_bytes"] == 0, 90, "end of the file")
        status, peak = node.daemon.status(), node.daemon.rss_kib()
        disk = sum(path.stat().st_size for path in node.daemon.state_dir.iterdir() if path.is_file())
        node.daemon.kill()
        record_property("S10 %s" % line.decode().strip(), "peak RSS %d KiB, state %d bytes" % (peak, disk))
        assert peak < MAX_RSS_KIB and disk < 32 << 20
        assert status["quarantined"] == (count if b"%" in line else 0)
        ingest.check()


def test_s12_a_file_that_grows_faster_than_it_is_shipped(tmp_path: Path, record_property: Any) -> None:
    """A writer at full speed and an ingest that takes its time: the queue stays within its bound, the others within theirs."""
    delays: list[float] = []
    with Ingest(keep_bodies=False, record=lambda event: str(event["id"])) as ingest:
        node = Node(tmp_path, ingest, queue_max_bytes=4 << 20)
        ingest.policy = lambda request: Fault(delay_s=0.1) if request.endpoint == EVENTS else None
        node.write("small", dumps(numbered(0)))
        node.daemon.start()
        ingest.wait_events(1)
        chunk = b"".join(dumps(numbered(number, 1000)) for number in range(4000))
        deadline, number, largest = time.monotonic() + 10, 0, 0
        while time.monotonic() < deadline:
            node.write("greedy", chunk * 3)
            number += 1
            began = time.monotonic()
            node.write("small", dumps(numbered(100_000 + number)))
            wanted = "%08x" % (100_000 + number)
            ingest.wait(lambda me, wanted=wanted: any(wanted in events for events in me.events.values()), 30, "line of the other file")
            delays.append(time.monotonic() - began)
            largest = max(largest, sum(path.stat().st_size for path in node.daemon.state_dir.iterdir() if path.is_file()))
        status, peak = node.daemon.status(), node.daemon.rss_kib()
        (greedy,) = [source for source in status["sources"] if source["file"] == "greedy.jsonl"]
        node.daemon.kill()
        record_property("S12", "%d MB behind, others after %.2f s, peak RSS %d KiB" % (greedy["lag_bytes"] >> 20, max(delays), peak))
        assert greedy["lag_bytes"] > 4 << 20, "it did not grow faster"
        assert max(delays) <= MAX_DELAY_S and peak <= MAX_RSS_KIB and largest < 40 << 20
        ingest.check()
