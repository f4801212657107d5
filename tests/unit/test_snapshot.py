# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Facts and cloud snapshot: the fixed shape, and nothing said that was not seen."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from clawmetry_sync import cloud, snapshot
from clawmetry_sync.cloud import Usage
from clawmetry_sync.hostinfo import HostInfo
from clawmetry_sync.model import (
    RUNTIMES,
    ContainerPlace,
    Discovery,
    HomePlace,
    Inference,
    Runtime,
    Sandbox,
    Security,
    Survey,
)

HOST = HostInfo("build-07", "linux", "Linux", "6.1.0", "x86_64", "3.11.7", "ab" * 32, False, False)
SANDBOX_KEYS = {
    "name", "id", "type", "status", "phase_source", "gateway", "workspace", "agent", "image", "default",
    "inference", "security", "store", "agents", "sessions", "route", "readable", "reason",
    "agent_version", "driver", "messaging", "evidence",
}  # fmt: skip


def shell(name: str = "my-assistant", **changes: Any) -> Sandbox:
    values: dict[str, Any] = {
        "uid": "docker:" + name,
        "name": name,
        "type": "nemoclaw",
        "id": "4b7e",
        "status": "running",
        "phase_source": "docker",
        "gateway": "nemoclaw",
        "agent": "openclaw",
        "image": "ghcr.io/x",
        "inference": Inference("nvidia-prod", "m-1"),
        "security": Security(True, None, ("npm",)),
        "container": ContainerPlace("unix:///x", "c" * 64, 7, "t", True),
        "confirmed": True,
    }
    return Sandbox(**{**values, **changes})


CUDA = shell("cuda-job", type="docker", confirmed=False, agent=None, inference=Inference(), security=Security())
BARE = Sandbox(
    "bare:/home/b/.openclaw", "openclaw@b", "bare", status="present", home=HomePlace(b"/home/b"), confirmed=True, security=Security(False)
)
NO_USAGE = Usage()
READ = Survey(True, "proc", None, "jsonl", ("main", "ops"), 3, 4096, 1795000000.5, (("MEMORY.md", 10, 1795000000.0),))
EMPTY = Survey(True, "proc")


def discovery(*boxes: Sandbox, warnings: tuple[str, ...] = ()) -> Discovery:
    return Discovery(tuple(Runtime(name, name == "docker", evidence=("seen",)) for name in RUNTIMES), boxes, warnings)


def facts(*boxes: Sandbox, surveys: Any = None, host: HostInfo = HOST, **options: Any) -> dict[str, Any]:
    result = snapshot.facts(host, discovery(*boxes), surveys or {}, **options)
    assert json.loads(json.dumps(result)) == result
    return result


def test_shape_of_the_facts() -> None:
    box = shell(default=True)
    result = facts(box, BARE, surveys={box.uid: READ})
    assert set(result) == {"schema_version", "node", "runtimes", "deployment", "sandboxes", "metadata", "topology", "blueprint"}
    assert result["schema_version"] == 1
    assert result["node"] == {"id": "build-07", "hostname": "build-07", "os": "linux", "arch": "x86_64", "machine_id_hash": "ab" * 32}
    assert list(result["runtimes"]) == list(RUNTIMES)
    assert set(result["runtimes"]["docker"]) == {"present", "version", "path", "user", "evidence"}
    assert result["deployment"] == {"mode": "host", "recommended": "host", "warnings": []}
    for row in result["sandboxes"]:
        assert set(row) == SANDBOX_KEYS
    first = result["sandboxes"][0]
    assert first["inference"] == {"provider": "nvidia-prod", "model": "m-1"}
    assert first["security"] == {"sandbox_enabled": True, "network_policy": None, "policies": ["npm"]}
    assert first["sessions"] == {"count": 3, "bytes": 4096, "last_activity": "2026-11-18T11:06:40Z"}
    assert (first["store"], first["agents"], first["route"], first["readable"]) == ("jsonl", ["main", "ops"], "proc", True)
    assert first["reason"] is None and first["default"] is True


def test_sync_is_in_the_facts_only_when_it_ran() -> None:
    assert "sync" not in facts()
    assert facts(sync={"ran": True, "ok": True})["sync"] == {"ran": True, "ok": True}


def test_configured_node_id_goes_before_the_hostname() -> None:
    assert facts(host=replace(HOST, node_id="fleet-1"))["node"]["id"] == "fleet-1"


def test_candidate_without_a_state_directory_is_not_reported() -> None:
    assert facts(CUDA)["sandboxes"] == []
    assert facts(CUDA, surveys={CUDA.uid: EMPTY})["sandboxes"] == []
    assert facts(CUDA, surveys={CUDA.uid: replace(READ, readable=False)})["sandboxes"] == []


def test_candidate_with_a_state_directory_is_reported_as_plain_docker() -> None:
    box = replace(CUDA, name="my-claw")
    (row,) = facts(box, surveys={box.uid: READ})["sandboxes"]
    assert row["type"] == "docker" and row["agent"] == "openclaw" and row["default"] is True
    assert row["security"] == {"sandbox_enabled": None, "network_policy": None, "policies": None}


def test_mark_of_an_unconfirmed_default_goes_to_a_reported_one() -> None:
    result = facts(replace(CUDA, default=True), shell())
    assert [row["name"] for row in result["sandboxes"] if row["default"]] == ["my-assistant"]
    assert result["metadata"]["sandbox.name"] == "my-assistant"


def test_unreadable_is_unknown_and_not_empty() -> None:
    box = shell()
    survey = Survey(False, None, "cannot hold /proc/7/root: permission denied")
    (row,) = facts(box, surveys={box.uid: survey})["sandboxes"]
    assert row["sessions"] == {"count": None, "bytes": None, "last_activity": None}
    assert row["store"] is None and row["agents"] is None and row["readable"] is False and "permission denied" in row["reason"]
    (row,) = facts(box, surveys={box.uid: EMPTY})["sandboxes"]
    assert row["sessions"]["count"] == 0 and row["store"] == "none" and row["agents"] == []


def test_sandbox_that_was_not_read_says_so() -> None:
    (row,) = facts(shell())["sandboxes"]
    assert row["readable"] is None and row["reason"] == "not read yet"


def test_metadata_keeps_every_key_without_a_sandbox() -> None:
    assert facts()["metadata"] == dict.fromkeys(snapshot.METADATA_KEYS)


def test_metadata_of_the_default_sandbox() -> None:
    assert facts(BARE, shell(default=True))["metadata"] == {
        "sandbox.name": "my-assistant",
        "sandbox.status": "running",
        "sandbox.type": "nemoclaw",
        "inference.provider": "nvidia-prod",
        "inference.model": "m-1",
        "security.sandbox_enabled": True,
        "security.network_policy": None,
    }


def test_running_inside_a_sandbox_is_said() -> None:
    result = facts(host=replace(HOST, in_sandbox=True))
    assert result["deployment"]["mode"] == "sandbox" and result["deployment"]["recommended"] == "host"
    assert "inside a sandbox" in result["deployment"]["warnings"][0]
    unsure = facts(host=replace(HOST, in_sandbox=None, evidence=("no idea",)))
    assert unsure["deployment"]["mode"] == "host" and "no idea" in unsure["deployment"]["warnings"][0]


@pytest.mark.parametrize("when", [1e300, -1e300, float("nan"), float("inf"), 1e14])
def test_time_no_calendar_has_is_unknown(when: float) -> None:
    assert snapshot.iso(when) is None


def uploaded(*boxes: Sandbox, surveys: Any = None, usage: Usage = NO_USAGE) -> dict[str, Any]:
    surveys = surveys or {}
    result = cloud.plaintext(HOST, facts(*boxes, surveys=surveys), surveys, usage=usage, boxes=boxes)
    assert json.loads(json.dumps(result)) == result
    return result


def test_cloud_snapshot_of_a_host_with_two_sandboxes() -> None:
    box = shell(default=True)
    usage = Usage(100 * 1024**3, 85 * 1024**3, 4 * 1024**3, 1024**3, 90061.0)
    result = uploaded(box, BARE, CUDA, surveys={box.uid: READ, BARE.uid: READ, CUDA.uid: EMPTY}, usage=usage)
    assert result["system"] == [
        ["Disk /", "85.0 GB / 100.0 GB (85%)", "yellow"],
        ["RAM", "1.0 GB / 4.0 GB (25%)", "green"],
        ["Uptime", "1d 1h 1m", ""],
    ]
    assert result["sessionCount"] == 6 and result["memoryCount"] == 2 and result["memorySize"] == 20
    assert result["memoryFiles"][0] == {"name": "MEMORY.md", "size": 10, "modified": "2026-11-18T11:06:40Z", "sandbox": "my-assistant"}
    assert result["sandbox"]["sandbox.name"] == "my-assistant" and result["sandbox"]["runtime"] == "nemoclaw"
    assert result["sandbox"]["container_id"] == "c" * 64
    assert (result["model"], result["provider"]) == ("m-1", "nvidia-prod")
    assert [row["name"] for row in result["sandboxes"]] == ["my-assistant", "openclaw@b"]
    assert set(result["infra"]) == {"machine", "runtime", "storage", "python_version", "os_name", "os_release", "arch"}


def test_cloud_snapshot_says_nothing_that_is_not_known() -> None:
    result = uploaded()
    assert result["system"] == [] and result["model"] is None and result["sessionCount"] == 0
    assert result["sandbox"] == {**dict.fromkeys(snapshot.METADATA_KEYS), "runtime": None}
    unread = uploaded(shell())
    assert unread["sessionCount"] is None


def test_memory_files_are_capped_and_still_counted() -> None:
    box = shell()
    many = replace(READ, memory_files=tuple(("memory/%d.md" % number, 1, 0.0) for number in range(700)))
    result = uploaded(box, surveys={box.uid: many})
    assert len(result["memoryFiles"]) == cloud.MAX_MEMORY_FILES and result["memoryCount"] == 700


def test_openclaw_is_present_where_a_sandbox_holds_its_state() -> None:
    """A container that nothing registered: discovery can only guess from its name, reading has seen it."""
    box = shell("claw", type="docker", agent=None, confirmed=False)
    guessed = Runtime("openclaw", None, evidence=("container claw looks like it by name or image",))
    discovery = Discovery(runtimes=(guessed,), sandboxes=(box,))

    def told(survey: Survey) -> tuple[object, object]:
        row = snapshot.facts(HOST, discovery, {box.uid: survey})["runtimes"]["openclaw"]
        return row["present"], row["evidence"]

    assert told(Survey(True, "proc", store="jsonl", agents=("main",))) == (True, ["state directory in sandbox claw"])
    guess = (None, list(guessed.evidence))
    assert told(Survey(False, reason="no route")) == guess
    assert told(Survey(True, "proc")) == guess
    assert told(Survey(True, "proc", store="sqlite", other_agent="hermes")) == guess
