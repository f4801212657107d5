# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What kubectl says of pods, and how it meets what /proc shows."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawmetry_sync.discover.k3s import Cluster, Pods, Told
from clawmetry_sync.discover.kubectl import parse_pods
from clawmetry_sync.errors import Unreadable

ID = "a1" * 32
UID = "85ef1ba4-4176-4215-90b8-9e0b2e5e3b83"
CLUSTER = Cluster("openshell-cluster-nemoclaw", ID, "unix:///x")
MANAGED = {"openshell.ai/managed-by": "openshell", "openshell.ai/sandbox-id": "9f1c2a"}
JSON = st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


def pod(
    name: object = "my-assistant", uid: object = UID, labels: object = None, containers: object = ("agent",), phase: object = "Running"
) -> Any:
    listed = [{"name": each} for each in containers] if isinstance(containers, tuple) else containers
    return {"metadata": {"name": name, "uid": uid, "labels": labels}, "spec": {"containers": listed}, "status": {"phase": phase}}


def parsed(*items: object) -> list[Told]:
    return parse_pods(json.dumps({"items": list(items)}).encode())


def test_a_sandbox_and_what_is_none() -> None:
    assert parsed(pod(labels=MANAGED), pod("openshell-0", containers=("openshell",))) == [
        Told("my-assistant", UID, "running", "9f1c2a", True)
    ]
    assert parsed(pod()) == [Told("my-assistant", UID, "running", None, False)]


@pytest.mark.parametrize(
    "item",
    [
        pod(name="-g"),
        pod(name="--kubeconfig=/x"),
        pod(name="a b"),
        pod(name="A"),
        pod(name="a\n"),
        pod(name="x" * 254),
        pod(name=["a"]),
        pod(uid="../x"),
        pod(uid=UID.upper()),
        pod(uid=None),
        pod(containers="agent"),
        pod(containers=[1, None, {"name": []}]),
        None,
        [],
        {"metadata": []},
    ],
)
def test_hostile_pods_are_passed_over(item: object) -> None:
    assert parsed(item) == []


def test_hostile_labels_and_phases_say_nothing() -> None:
    (told,) = parsed(pod(labels={"openshell.ai/managed-by": ["openshell"], "openshell.ai/sandbox-id": "../x"}, phase="\x1b[31mRunning"))
    assert (told.managed, told.sandbox_id, told.phase) == (False, None, "")


@given(JSON)
def test_any_document_is_survived(document: object) -> None:
    for shape in (document, {"items": document}, {"items": [document]}):
        with contextlib.suppress(ValueError):
            parse_pods(json.dumps(shape).encode())


@pytest.mark.parametrize("data", [b"", b"error: You must be logged in", b"[" * 100_000, b"\xff"])
def test_what_is_no_list_of_pods(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_pods(data)


def test_what_is_told_stays_while_kubectl_fails(tmp_path: Path) -> None:
    now = [0.0]
    answers: list[Any] = [[Told("my-assistant", UID, "running", "9f1c2a", True)], Unreadable("hangs"), []]

    def ask(_cluster: Cluster) -> list[Told]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    pods = Pods(str(tmp_path), ask, lambda: now[0])
    (box,) = pods.find([CLUSTER])[0]
    assert (box.uid, box.id, box.gateway, box.confirmed) == ("k3s:%s:%s" % (ID, UID), "9f1c2a", "nemoclaw", True)
    assert box.container is not None and (box.container.pod_name, box.container.pid, box.container.running) == ("my-assistant", 0, True)
    assert len(answers) == 2
    assert pods.find([CLUSTER])[0] == [box] and len(answers) == 2
    now[0] = 20.0
    boxes, warnings = pods.find([CLUSTER])
    assert boxes == [box] and len(warnings) == 1
    now[0] = 40.0
    assert pods.find([CLUSTER]) == ([], [])
