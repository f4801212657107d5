# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A sandbox that only ``openshell sandbox exec`` leads into: no engine to ask, no process of it to see."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from support.ingest import Ingest
from support.sandbox import OPENCLAW_IMAGE, Sandbox, run_container, until
from support.stubcli import register_gateway
from support.tree import make_tree, numbered

from .conftest import MakeNode
from .test_sandboxes import arrived, expected

pytestmark = pytest.mark.root

# What stands for OpenShell's CLI: as it does, it reads its input to the end before it runs anything, greets as a login
# shell may, and notes which sandbox was used last.
CLI = r"""#!/bin/sh
here=%(here)s
echo "$*" >>$here/calls
case "$1 $2" in
--version*) echo openshell 0.0.72 ;;
"sandbox list") printf '[{"id": "%%s", "name": "%(name)s", "phase": "%%s"}]\n' "$(cat $here/id)" "$(cat $here/phase)" ;;
"sandbox get") printf 'Sandbox:\n\n  Id: %%s\n  Name: %(name)s\n' "$(cat $here/id)" ;;
"policy get"|"inference get"|"status "*) exit 1 ;;
"sandbox exec")
    cat >/dev/null
    [ "$3 $4 $5 $6 $7 $8 ${10}" = "-g nemoclaw -n %(name)s --no-tty --timeout --" ] || { echo "WRITES $*" >>$here/calls; exit 2; }
    echo %(name)s >"$HOME/.config/openshell/gateways/nemoclaw/last_sandbox"
    shift 10
    echo "Welcome to $(hostname)"
    exec docker exec -u 998 %(container)s "$@"
    ;;
*) echo "WRITES $*" >>$here/calls; exit 2 ;;
esac
"""


class OnlyByCli:
    """A home with the CLI in it, and the container that stands for a sandbox elsewhere."""

    def __init__(self, home: Path, box: Sandbox) -> None:
        self.home, self.box = home, box
        register_gateway(home)
        self.place = home / "openshell.d"
        self.place.mkdir()
        self.says("id", "id-1")
        self.says("phase", "Ready")
        program = home / ".local/bin/openshell"
        program.parent.mkdir(parents=True)
        program.write_text(CLI % {"here": self.place, "name": box.name, "container": box.container})
        program.chmod(0o755)

    def says(self, what: str, text: str) -> None:
        (self.place / what).write_text(text)

    def calls(self) -> list[str]:
        return (self.place / "calls").read_text().splitlines()


@pytest.fixture
def elsewhere(tmp_path: Path, unique: str, cleanup: contextlib.ExitStack) -> OnlyByCli:
    home = tmp_path / "home"
    home.mkdir()
    return OnlyByCli(home, cleanup.enter_context(run_container(unique, unique, OPENCLAW_IMAGE)))


def options(elsewhere: OnlyByCli, *routes: str) -> dict[str, Any]:
    home = str(elsewhere.home)
    return {"discover": ["openshell"], "homes": [home], "docker_host": "unix:///nonexistent/docker.sock", "routes": list(routes)}


def test_it_is_read_to_the_end_and_goes_on_being_read(ingest: Ingest, node: MakeNode, elsewhere: OnlyByCli) -> None:
    tree = make_tree(sessions=3, events=40)
    box = elsewhere.box
    box.put_tree(tree)
    box.sh("cd /sandbox/.openclaw/agents/main/sessions && ln -s /etc/hostname link.jsonl && mkfifo pipe.jsonl")
    daemon = node(**options(elsewhere, "proc", "volume", "archive", "exec"))
    daemon.start()
    ingest.wait_events(120)
    assert arrived(ingest, box.name) == expected(tree)
    ingest.wait(lambda me: bool(me.memory), what="memory")
    (row,) = daemon.json("snapshot")["sandboxes"]
    assert (row["name"], row["id"], row["route"], row["readable"], row["status"]) == (box.name, "id-1", "exec", True, "running")
    assert (row["sessions"]["count"], row["store"]) == (3, "jsonl")
    box.append("later.jsonl", *map(numbered, range(200, 230)))
    ingest.wait_events(150, timeout_s=40)
    assert ingest.duplicate_events == 0
    calls = elsewhere.calls()
    assert not [call for call in calls if call.startswith("WRITES")]
    # What just changed comes with the listing; nothing is asked for twice, and what is no file never.
    fetches = [call for call in calls if "/bin/tar" in call]
    assert not [call for call in fetches if "later.jsonl" in call]
    assert len(fetches) == len(set(fetches)) and not [call for call in fetches if "link.jsonl" in call or "pipe.jsonl" in call]

    # Of another sandbox by that name nothing is taken for the old one's.
    box.sh("rm -rf /sandbox/.openclaw/agents/main/sessions/*")
    elsewhere.says("id", "id-2")
    box.append("s.jsonl", *map(numbered, range(5)))
    until(lambda: "still sandbox id-1" in str(daemon.status()["unreadable"]), 40, "trouble told")
    assert len(ingest.all_events()) == 150
    elsewhere.says("phase", "Stopped")
    (row,) = daemon.json("snapshot")["sandboxes"]
    assert (row["id"], row["status"], row["readable"]) == ("id-2", "stopped", False)


def test_one_sync_reads_it_and_a_newer_program_is_used_at_once(ingest: Ingest, node: MakeNode, elsewhere: OnlyByCli) -> None:
    elsewhere.box.put_tree(make_tree(sessions=2, events=10))
    daemon = node(**options(elsewhere, "exec"))
    result = daemon.json("sync")
    assert result["ok"] and result["events"] == 20, result
    daemon.start()
    until(lambda: [row["route"] for row in daemon.status()["sandboxes"]] == ["exec"], what="route")
    program = elsewhere.home / ".local/bin/openshell"
    program.rename(program.with_name("openshell-2"))
    program.symlink_to("openshell-2")
    elsewhere.box.append("more.jsonl", *map(numbered, range(5)))
    ingest.wait_events(25, timeout_s=90)
    assert daemon.status()["unreadable"] == {}


def test_nothing_is_run_in_it_unless_the_operator_says_so(node: MakeNode, elsewhere: OnlyByCli) -> None:
    elsewhere.box.put_tree(make_tree(sessions=1, events=1))
    (row,) = node(**options(elsewhere, "proc", "volume", "archive")).json("snapshot")["sandboxes"]
    assert row["readable"] is False and "the exec route is not allowed" in row["reason"]
    assert not [call for call in elsewhere.calls() if "exec" in call]
    assert not (elsewhere.home / ".config/openshell/gateways/nemoclaw/last_sandbox").exists()
