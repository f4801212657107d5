# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""R16, R17: an ingest that refuses everything fills no disk; and an archive whose key was replaced is told of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clawmetry_sync.seal import new_key
from support.ingest import EVENTS, Fault, Ingest
from support.node import Node, until

MIB = 1 << 20
FAST = "from clawmetry_sync.ship import shipper\nshipper.PAUSE_BASE_S = 0.02\n"


def test_r17_an_ingest_that_refuses_everything_fills_no_disk(tmp_path: Path, record_property: Any) -> None:
    with Ingest(keep_bodies=False) as ingest:
        node = Node(tmp_path, ingest, queue_max_bytes=MIB)
        node.daemon.prelude = FAST
        ingest.policy = lambda request: Fault(status=404) if request.endpoint == EVENTS else None
        node.append("one", 12_000, 1000)
        node.append("two", 2_000, 1000)
        node.daemon.start()
        status = until(
            lambda: (now := node.daemon.status()) and now["target"]["state"] == "paused" and now["queue"]["pending_bytes"] >= MIB and now,
            30,
            "full queue and dead letters",
        )
        disk = sum(path.stat().st_size for path in node.daemon.state_dir.iterdir() if path.is_file())
        record_property("R17 404 to everything", "dead letters %d bytes, state %d bytes" % (status["dead_letter_bytes"], disk))
        assert status["state"] == "degraded" and "dead letters are full" in status["target"]["reason"]
        assert 0 < status["dead_letter_bytes"] <= MIB and disk < 32 * MIB
        assert sum(source["lag_bytes"] for source in status["sources"]) > 2 * MIB, "the files are the buffer"
        listed = node.daemon.json("dead-letters")
        assert listed["dead_letters"] == status["dead_letters"] and "404" in listed["newest"][0]["reason"]
        # Mended: what waits goes by itself, what was put aside by a person's word.
        ingest.policy = None
        until(lambda: node.daemon.status()["queue"]["pending"] == 0, 60, "empty outbox")
        assert node.daemon.status()["dead_letters"] == listed["dead_letters"]
        done = node.daemon.cli("dead-letters", "--send-again")
        assert done.returncode == 0 and b"wait to be sent again" in done.stdout
        ingest.wait_events(14_000, 60)
        until(lambda: node.daemon.status()["state"] == "ok", 20, "recovery")
        ingest.check()
        for name, wanted in node.expected.items():
            assert sorted(node.received()[name]) == sorted(wanted)
        assert node.daemon.terminate() == 0


def test_r16_dead_letters_without_a_daemon(tmp_path: Path) -> None:
    with Ingest() as ingest:
        node = Node(tmp_path, ingest)
        assert node.daemon.json("dead-letters")["dead_letters"] == 0
        ingest.script(EVENTS, Fault(status=400))
        node.append("one", 3)
        node.daemon.start()
        until(lambda: node.daemon.status()["dead_letters"] == 1, 20, "dead letter")
        assert node.daemon.terminate() == 0
        assert node.daemon.json("dead-letters")["newest"][0]["records"] == 3
        assert node.daemon.json("dead-letters", "--discard") == {"done": 1, "dead_letters": 0, "bytes": 0, "newest": []}
        node.daemon.start()
        node.append("one", 1)
        until(lambda: node.daemon.status()["state"] == "ok", 20, "a clean state")
        node.daemon.kill()


def test_replaced_key_over_an_archive_is_told_of(tmp_path: Path) -> None:
    with Ingest() as ingest:
        node = Node(tmp_path, ingest)
        node.daemon.config["ingest_url"] = "file://%s" % (tmp_path / "kept")
        node.daemon.write_config()
        node.append("one", 3)
        assert node.daemon.cli("sync").returncode == 0
        quiet = node.daemon.cli("check-config")
        assert quiet.returncode == 0 and b"another encryption key" not in quiet.stderr
        key = node.daemon.directory / "encryption_key"
        former = key.read_text()
        key.write_text(new_key() + "\n")
        done = node.daemon.cli("check-config")
        assert done.returncode == 0 and b"all of " in done.stderr and b"sealed with another encryption key" in done.stderr
        checks = json.loads(node.daemon.cli("doctor", "--json").stdout)["checks"]
        (check,) = [check for check in checks if check["name"] == "archive"]
        assert check["level"] == "warn" and "another encryption key" in check["seen"] and check["next_step"]
        # What is sealed from now on is shown; of the rest it says that it is there.
        node.append("one", 2)
        assert node.daemon.cli("sync").returncode == 0
        done = node.daemon.cli("archive", "show")
        assert done.returncode == 1 and len(done.stdout.splitlines()) == 2 and b"do not open with this key" in done.stderr
        assert b"part of " in node.daemon.cli("check-config").stderr
        key.write_text(former)
        assert len(node.daemon.cli("archive", "show").stdout.splitlines()) == 3
