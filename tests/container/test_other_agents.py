# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sandboxes of NemoClaw's other agents: which agent, where it keeps its transcripts, and that they are not read yet."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from support.sandbox import Sandbox, openshell_0_0_72

from .conftest import MakeNode

KINDS = ["nemoclaw", "openshell", "docker"]


def put_hermes(box: Sandbox, tmp_path: Path) -> None:
    """Its database with a link to it of before, and secrets; what opens the FIFO beside them would wait for ever."""
    database = tmp_path / "state.db"
    with contextlib.closing(sqlite3.connect(database)) as made:
        made.executescript("CREATE TABLE messages(id INTEGER PRIMARY KEY, content TEXT); INSERT INTO messages(content) VALUES('canary')")
    box.sh("mkdir -p /sandbox/.hermes/runtime; cat >/sandbox/.hermes/runtime/state.db", stdin=database.read_bytes())
    box.sh("cd /sandbox/.hermes; ln -s runtime/state.db state.db; mkfifo .env auth.json config.yaml")


def register(home: Path, **agents: Any) -> None:
    (home / ".nemoclaw").mkdir(parents=True)
    rows = {name.replace("_", "-"): {"name": name.replace("_", "-"), **entry} for name, entry in agents.items()}
    (home / ".nemoclaw/sandboxes.json").write_text(json.dumps({"sandboxes": rows}))


def rows_of(facts: dict[str, Any]) -> dict[str, Any]:
    return {row["name"]: row for row in facts["sandboxes"]}


@pytest.mark.parametrize("route", ["proc", "archive", "exec"])
def test_hermes_is_told_with_its_store(node: MakeNode, unique: str, cleanup: contextlib.ExitStack, tmp_path: Path, route: str) -> None:
    box, fresh = (cleanup.enter_context(openshell_0_0_72(unique + tail)) for tail in ("-a", "-b"))
    put_hermes(box, tmp_path)
    fresh.sh("mkdir -p /sandbox/.hermes")
    home = tmp_path / "home"
    register(home, **{box.name: {"agent": "hermes", "agentVersion": "0.9.1"}, fresh.name: {"agent": "hermes"}})
    if route == "archive":
        box.stop()
    facts = node(discover=KINDS, homes=[str(home)], routes=[route]).json("snapshot")
    row = rows_of(facts)[box.name]
    assert (row["agent"], row["agent_version"], row["store"], row["route"]) == ("hermes", "0.9.1", "sqlite", route)
    # What is not read is not counted.
    assert row["readable"] is False and row["agents"] is None and set(row["sessions"].values()) == {None}
    assert row["reason"] == "its agent is hermes (/sandbox/.hermes/runtime/state.db); transcripts of that are not read yet"
    row = rows_of(facts)[fresh.name]
    assert (row["agent"], row["store"]) == ("hermes", "none") and "(/sandbox/.hermes)" in row["reason"]
    assert "canary" not in json.dumps(facts)


def test_deep_agents_and_an_agent_that_only_the_registry_knows(
    node: MakeNode, unique: str, cleanup: contextlib.ExitStack, tmp_path: Path
) -> None:
    """A registry that says nothing of the agent is not believed against what is seen."""
    deep, new = (cleanup.enter_context(openshell_0_0_72(unique + tail)) for tail in ("-deep", "-new"))
    deep.sh("mkdir -p /sandbox/.deepagents/.state; mkfifo /sandbox/.deepagents/.env")
    home = tmp_path / "home"
    register(home, **{deep.name: {}, new.name: {"agent": "somebody-new"}})
    rows = rows_of(node(discover=KINDS, homes=[str(home)]).json("snapshot"))
    row = rows[deep.name]
    # Where it keeps them is not known: neither a store nor "none".
    assert (row["agent"], row["store"], row["readable"]) == ("langchain-deepagents-code", None, False)
    assert row["reason"] == "its agent is langchain-deepagents-code (/sandbox/.deepagents); transcripts of that are not read yet"
    row = rows[new.name]
    assert (row["agent"], row["store"], row["readable"]) == ("somebody-new", None, False)
    assert row["reason"].endswith("transcripts of its agent somebody-new are not read yet")


def test_a_link_or_a_file_by_that_name_is_no_agent(node: MakeNode, unique: str, cleanup: contextlib.ExitStack) -> None:
    box, other = (cleanup.enter_context(openshell_0_0_72(unique + tail)) for tail in ("-a", "-b"))
    box.sh("ln -s /etc /sandbox/.hermes; : >/sandbox/.deepagents")
    other.sh("mkdir -p /sandbox/.hermes/runtime; ln -s /etc/passwd /sandbox/.hermes/runtime/state.db; mkfifo /sandbox/.hermes/state.db")
    rows = rows_of(node(discover=KINDS).json("snapshot"))
    assert (rows[box.name]["agent"], rows[box.name]["store"]) == (None, None)
    assert rows[box.name]["reason"] == "no OpenClaw state directory was found in it"
    assert (rows[other.name]["agent"], rows[other.name]["store"]) == ("hermes", "none")
