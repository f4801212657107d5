# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which rows are one sandbox, which are not, and whose word counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Optional

import pytest

from clawmetry_sync.discover import merging
from clawmetry_sync.discover.nemoclaw import Entry, Found, Registry, merge, owners
from clawmetry_sync.discover.openshellcli import Answer, Registration, Told
from clawmetry_sync.discover.openshelltext import Listed, Policy
from clawmetry_sync.model import ContainerPlace, Inference, Sandbox, Security

LOADED = Policy(("npm_yarn",), 2, "Loaded", "sandbox")
PATH = "/home/alice/.nemoclaw/sandboxes.json"


def box(uid: str = "c1", name: str = "a", identity: Optional[str] = "id1", *, running: bool = True, **changes: Any) -> Sandbox:
    values: dict[str, Any] = {
        "uid": "docker:" + uid, "name": name, "type": "nemoclaw", "id": identity, "status": "running" if running else "stopped",
        "phase_source": "docker", "container": ContainerPlace("unix:///x", uid * 32, 7 if running else 0, "t", running),
        "evidence": ("label openshell.ai/*",), "confirmed": True, "security": Security(True),
    }  # fmt: skip
    return Sandbox(**{**values, **changes})


def told(name: str = "a", phase: str = "Ready", identity: Optional[str] = "id1", policy: Optional[Policy] = None, **more: Any) -> Told:
    return Told(Listed(name, phase, identity, **more), policy)


def answer(*sandboxes: Told, gateway: str = "nemoclaw", home: str = "/home/alice", **changes: Any) -> Answer:
    return Answer(home.rpartition("/")[2], home, Registration(gateway), sandboxes=sandboxes, **changes)


def registry(*entries: Entry, default: Optional[str] = None, path: str = PATH) -> Found:
    return Found(path, "alice", Registry(entries, default))


def entry(name: str = "a", gateway: Optional[str] = "nemoclaw", **changes: Any) -> Entry:
    values: dict[str, Any] = {"agent": "openclaw", "inference": Inference("p", "m"), "policies": ("npm",)}
    return Entry(name=name, gateway=gateway, **{**values, **changes})


def everything(containers: list[Sandbox], answers: list[Answer], registries: list[Found]) -> tuple[list[Sandbox], list[str]]:
    joined, left, warnings = merging.join(containers, answers, owners(registries))
    boxes, more = merge(joined, registries)
    return merging.add(boxes, left), warnings + more


def test_container_registry_and_list_are_one_row() -> None:
    (row,), warnings = everything([box()], [answer(told(policy=LOADED))], [registry(entry())])
    assert warnings == [] and row.uid == "docker:c1"
    assert (row.gateway, row.status, row.phase_source, row.agent) == ("nemoclaw", "running", "docker", "openclaw")
    assert row.security == Security(True, True, ("npm",))
    assert row.evidence == (
        "label openshell.ai/*",
        "openshell sandbox list: gateway nemoclaw, phase Ready",
        "policy version 2, Loaded, 1 network entries: npm_yarn",
        "registry " + PATH,
    )


def test_stale_phase_of_a_running_container_is_evidence_only() -> None:
    (row,), _warnings = everything([box()], [answer(told(phase="Error"))], [])
    assert (row.status, row.phase_source) == ("running", "docker")
    assert "openshell sandbox list: gateway nemoclaw, phase Error" in row.evidence
    assert "the phase is not believed: the container runs" in row.evidence


def test_ready_phase_does_not_wake_a_stopped_container() -> None:
    (row,), _warnings = everything([box(running=False)], [answer(told())], [])
    assert (row.status, row.phase_source) == ("stopped", "docker")


def test_phase_is_the_next_best_word_when_the_engine_is_silent() -> None:
    (row,), _warnings = everything([box(status=None, reason="the engine does not answer")], [answer(told())], [])
    assert (row.status, row.phase_source) == ("running", "openshell")


def test_list_from_before_a_failure_tells_no_status() -> None:
    (row,), _warnings = everything([box(status=None)], [answer(told(), error="hangs")], [])
    assert row.status is None and "before it stopped answering: hangs" in row.evidence[-1]


@pytest.mark.parametrize(
    ("phase", "status"),
    [("Ready", "running"), ("Stopped", "stopped"), ("Completed", "stopped"), ("Error", "error"), ("Unknown", None), ("Paused?", None)],
)
def test_listed_sandbox_without_a_container_is_a_row(phase: str, status: Optional[str]) -> None:
    (row,), _warnings = everything([], [answer(told(phase=phase, workspace="night"), inference=Inference("p", "m"))], [])
    assert (row.uid, row.type, row.status, row.phase_source) == ("openshell:nemoclaw:night:id1", "nemoclaw", status, "openshell")
    assert row.confirmed and row.inference == Inference("p", "m") and row.reason == "listed by OpenShell; no container of it seen here"


def test_listed_and_registered_without_a_container_is_one_row() -> None:
    (row,), _warnings = everything([], [answer(told(policy=LOADED))], [registry(entry(policies=None))])
    assert (row.uid, row.id, row.status, row.phase_source) == ("registry:nemoclaw:a", "id1", "running", "openshell")
    assert row.security == Security(True, True, ("npm_yarn",)) and "no container of it seen here" in (row.reason or "")


def test_text_list_without_ids_joins_by_a_name_that_is_there_once() -> None:
    (row,), _warnings = everything([box()], [answer(told(identity=None))], [])
    assert row.gateway == "nemoclaw"
    rows, warnings = everything([box("c1"), box("c2", identity="id2")], [answer(told(identity=None))], [])
    assert len(rows) == 3 and "2 containers claim it" in warnings[0]


def test_name_alone_joins_nothing_when_there_is_an_id() -> None:
    rows, warnings = everything([box(identity="forged")], [answer(told())], [])
    assert [row.uid for row in rows] == ["docker:c1", "openshell:nemoclaw:default:id1"]
    assert rows[0].gateway is None and warnings == []


def test_two_containers_with_one_id_get_nothing_of_it() -> None:
    rows, warnings = everything([box("c1"), box("c2")], [answer(told(policy=LOADED))], [])
    assert [row.gateway for row in rows[:2]] == [None, None] and "2 containers claim it; not joined" in warnings[0]


def test_id_under_another_name_is_not_believed() -> None:
    rows, warnings = everything([box(name="b")], [answer(told())], [])
    assert len(rows) == 2 and "labelled b" in warnings[0]


def test_gateway_that_two_users_registered_lists_each_sandbox_once() -> None:
    rows, warnings = everything([box()], [answer(told()), answer(told(), home="/home/bob")], [])
    assert len(rows) == 1 and warnings == []


def test_gateways_that_contradict_each_other_are_not_believed() -> None:
    rows, warnings = everything([box()], [answer(told()), answer(told(), home="/home/bob", gateway="forged")], [])
    assert len(rows) == 1 and rows[0].gateway is None and "contradict" in warnings[0]


def test_another_user_s_gateway_is_not_heard_about_a_registered_sandbox() -> None:
    forged = answer(told(phase="Error", policy=LOADED), home="/home/bob", gateway="forged")
    rows, warnings = everything([box()], [forged], [registry(entry())])
    assert "another user registered it; not joined" in warnings[0]
    assert [(row.uid, row.gateway, row.security.network_policy) for row in rows] == [
        ("docker:c1", "nemoclaw", None),
        ("openshell:forged:default:id1", "forged", True),
    ]
    rows, warnings = everything([box()], [forged, answer(told())], [registry(entry())])
    assert warnings == [] and [(row.uid, row.gateway) for row in rows] == [("docker:c1", "nemoclaw")]


def test_same_name_in_two_gateways_is_told_apart_by_the_list() -> None:
    containers = [box("c1", identity="id1"), box("c2", identity="id2")]
    answers = [answer(told(identity="id1")), answer(told(identity="id2"), gateway="nemoclaw-18080")]
    second = registry(entry(gateway="nemoclaw-18080"), path="/home/alice/.nemoclaw/gateways/18080/sandboxes.json")
    registries = [registry(entry(agent="hermes")), second]
    rows, warnings = everything(containers, answers, registries)
    assert warnings == [] and [(row.uid, row.gateway, row.agent) for row in rows] == [
        ("docker:c1", "nemoclaw", "hermes"),
        ("docker:c2", "nemoclaw-18080", "openclaw"),
    ]


def test_registry_of_another_gateway_stays_apart_and_says_why() -> None:
    rows, _warnings = everything([box()], [answer(told())], [registry(entry(gateway="nemoclaw-18080"))])
    assert [row.uid for row in rows] == ["docker:c1", "registry:nemoclaw-18080:a"]
    assert "a container of this name belongs to gateway nemoclaw" in (rows[1].reason or "")


def test_same_name_in_two_workspaces_is_two_rows() -> None:
    rows, _warnings = everything([], [answer(told(workspace="default"), told(identity="id2", workspace="night"))], [])
    assert [row.workspace for row in rows] == ["default", "night"]


def test_live_route_is_the_default_sandbox_s() -> None:
    live = Inference("ollama-local", "m-2")
    (row,), _warnings = everything([box()], [answer(told(), inference=live)], [registry(entry(), default="a")])
    assert row.inference == live and row.evidence[-1] == "registry says p / m"
    (row,), _warnings = everything([box()], [answer(told(), inference=live)], [registry(entry())])
    assert row.inference == Inference("p", "m") and row.evidence[-1] == "the gateway's route says ollama-local / m-2"


def test_route_fills_what_the_registry_does_not_know() -> None:
    partly = registry(entry(inference=Inference("p", None)))
    (row,), _warnings = everything([box()], [answer(told(), inference=Inference("p", "m"))], [partly])
    assert row.inference == Inference("p", "m")


def test_registry_without_policies_leaves_the_live_ones() -> None:
    (row,), _warnings = everything([box()], [answer(told(policy=LOADED))], [registry(entry(policies=None))])
    assert row.security == Security(True, True, ("npm_yarn",))


def test_policy_that_did_not_load_is_not_said_to_be_in_force() -> None:
    failed = replace(LOADED, status="Failed")
    (row,), _warnings = everything([box()], [answer(told(policy=failed))], [])
    assert row.security.network_policy is None and "Failed" in row.evidence[-1]


def test_pod_of_the_k3s_era_joins_by_its_gateway_and_name() -> None:
    pod = replace(box(identity="9c1d0f6e-pod-uid"), uid="k3s:c0ffee:9c1d", gateway="nemoclaw")
    rows, warnings = everything([pod], [answer(told(phase="Error"))], [registry(entry())])
    assert warnings == [] and [(row.uid, row.status, row.agent) for row in rows] == [("k3s:c0ffee:9c1d", "running", "openclaw")]
    rows, _warnings = everything([pod], [answer(told(), gateway="other")], [])
    assert len(rows) == 2


def test_thousands_of_rows_take_no_quadratic_time() -> None:
    containers = [box("c%d" % n, "n%d" % n, "id%d" % n) for n in range(3000)]
    listed = answer(*(told("n%d" % n, identity="id%d" % n) for n in range(6000)))
    rows, _warnings = everything(containers, [listed], [registry(*(entry("n%d" % n) for n in range(1000)))])
    assert len(rows) == 6000
