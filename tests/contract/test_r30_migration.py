# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""R30: history that moves from JSONL files into a database under a running daemon, which is killed again and again meanwhile."""

from __future__ import annotations

import random
import time
from pathlib import Path

from support import agentdb
from support.ingest import Ingest
from support.node import Node

SESSIONS, BEFORE, AFTER, STEPS = 8, 150, 40, 5


def test_r30_a_migration_under_kill9_sends_nothing_twice_and_loses_nothing(tmp_path: Path) -> None:
    """As ``openclaw doctor --fix`` does it: rows byte for byte, then the file is set aside; some fail and stay beside the database."""
    chance = random.Random(30)
    with Ingest() as ingest:
        node = Node(tmp_path, ingest)
        names = ["s%d" % number for number in range(SESSIONS)]
        lines = {name: node.lines(name, BEFORE, 300) for name in names}
        texts = {name: [line.decode().rstrip("\n") for line in lines[name]] for name in names}
        for name in names:
            node.write(name, b"".join(lines[name][: chance.randrange(BEFORE)]))  # the rest is written later
        written = {name: node.path(name).read_bytes().count(b"\n") for name in names}
        node.daemon.start()
        kills = 0
        try:
            database = agentdb.AgentDatabase(node.sessions.parent / "agent" / agentdb.NAME)
            archive = node.sessions.parent / "session-sqlite-import-archive"
            archive.mkdir()
            for name in names:
                time.sleep(chance.random() * 0.5)
                node.write(name, b"".join(lines[name][written[name] :]))
                database.session(name)
                for step in range(STEPS):
                    database.add(name, texts[name][step * BEFORE // STEPS : (step + 1) * BEFORE // STEPS])
                    if chance.random() < 0.3:
                        time.sleep(chance.random() * 0.4)
                        node.daemon.kill()
                        kills += 1
                        node.daemon.start()
                if name != names[-1]:  # the last one fails, and its file stays
                    node.path(name).rename(archive / ("agent_main_%s.%s.jsonl.imported-1795290000000" % (name, name)))
                database.add(name, [line.decode().rstrip("\n") for line in node.lines(name, AFTER, 300)])
            ingest.wait_events(node.expected_events, 60)
            time.sleep(2.0)
        finally:
            node.daemon.kill()
            print(node.daemon.log())
        ingest.check()
        received = node.received()
        assert {name: sorted(events) for name, events in received.items()} == {
            name: sorted(events) for name, events in node.expected.items()
        }
        # A kill between a 2xx and its ack has one batch sent again, under its old key.
        assert kills >= 5 and ingest.duplicate_batches <= kills
