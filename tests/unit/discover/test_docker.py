# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Containers of an engine: which are sandboxes, under which identity, and what an engine's failure means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawmetry_sync.discover import docker, openshell
from clawmetry_sync.dockerapi import Engine, EngineError
from clawmetry_sync.model import Sandbox
from support.fakeengine import FakeEngine, load

pytestmark = pytest.mark.network
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def found(*names: str) -> docker.Containers:
    with FakeEngine(*names) as fake:
        return docker.find(Engine(fake.url))


def by_name(containers: docker.Containers) -> dict[str, Sandbox]:
    return {box.name: box for box in containers.sandboxes}


def test_openshell_0_0_40_container_takes_its_name_from_labels() -> None:
    boxes = by_name(found("docker-openshell-0.0.40.json"))
    box = boxes["my-assistant"]
    assert box.confirmed and box.type == "nemoclaw" and box.id == "9f1c2a" and box.workspace is None
    assert box.container is not None and box.uid == "docker:" + box.container.container_id
    assert box.container.running and box.container.pid == 4182 and box.container.started_at.startswith("2026-07-01T10:00:05")
    assert box.status == "running" and box.phase_source == "docker" and box.security.sandbox_enabled is True
    assert box.security.network_policy is None and box.security.policies is None


def test_sandbox_called_cluster_is_no_gateway() -> None:
    assert by_name(found("docker-openshell-0.0.40.json"))["cluster"].confirmed


def test_openshell_0_0_72_all_sandboxes_and_no_neighbour() -> None:
    containers = found("docker-openshell-0.0.72.json")
    boxes = by_name(containers)
    assert {name for name, box in boxes.items() if box.confirmed} == {"my-assistant", "researcher"}
    assert boxes["researcher"].status == "stopped"
    place = boxes["researcher"].container
    assert place is not None and place.pid == 0 and not place.running
    assert containers.gateways == ("nemoclaw-nim-my-assistant",)
    assert "web" not in boxes


def test_nvidia_cuda_container_is_a_candidate_and_no_more() -> None:
    box = by_name(found("docker-openshell-0.0.72.json"))["cuda-job"]
    assert not box.confirmed and box.type == "docker" and box.security.sandbox_enabled is None


def test_openshell_0_0_111_workspace_and_image_by_id() -> None:
    box = by_name(found("docker-openshell-0.0.111.json"))["build-7"]
    assert box.confirmed and box.workspace == "team-a" and box.id == "c0ffee12"
    assert box.image is not None and box.image.startswith("sha256:")


def test_openshell_0_1_pair_is_one_sandbox_the_workload() -> None:
    (box,) = found("docker-openshell-0.1.9.json").sandboxes
    assert box.name == "pair" and box.container is not None and box.container.pid == 8001


def test_podman_labels_and_podman_behind_the_socket() -> None:
    containers = found("podman-openshell-0.0.72.json")
    assert containers.podman and by_name(containers)["notes"].confirmed


def test_cluster_container_of_the_k3s_era_is_no_sandbox() -> None:
    containers = found("docker-openshell-0.0.26.json")
    assert containers.sandboxes == () and containers.gateways == ("openshell-cluster-nemoclaw",)


def test_mounts_without_those_that_hold_keys() -> None:
    def mount(kind: str, source: str, destination: str) -> dict[str, str]:
        return {"Type": kind, "Source": source, "Destination": destination}

    answer = {
        "Mounts": [
            mount("volume", "/var/lib/docker/volumes/v/_data", "/sandbox"),
            mount("bind", "/srv/x", "/data"),
            mount("bind", "/home/a/.local/state/openshell/tls/tls.key", "/etc/openshell/tls/client/tls.key"),
            mount("bind", "/home/a/tls", "/etc/openshell-tls"),
            mount("bind", "/home/a/x", "/data/../run/openshell"),
            mount("tmpfs", "", "/run"),
            mount("bind", "relative", "/y"),
            mount("bind", "/nul\0", "/y"),
            "text",
        ]
    }
    assert [item.destination for item in docker.parse_detail(answer).mounts] == [b"/sandbox", b"/data"]
    assert docker.parse_detail({"Mounts": "x"}).mounts == ()


def test_environment_is_kept_nowhere() -> None:
    assert "canary" not in repr(found("docker-openshell-0.0.72.json", "docker-openshell-0.1.9.json"))


def test_forged_labels_neither_hide_nor_take_over_the_real_sandbox() -> None:
    with FakeEngine("docker-openshell-0.0.72.json") as fake:
        real = fake.containers[0]
        forged_id = "f" * 64
        fake.containers.insert(0, dict(real, Id=forged_id, Names=["/openshell-my-assistant-4b7e11d0x"]))
        detail = dict(fake.inspect[real["Id"]], Id=forged_id)
        fake.inspect[forged_id] = detail
        boxes = [box for box in docker.find(Engine(fake.url)).sandboxes if box.name == "my-assistant"]
        assert {box.uid for box in boxes} == {"docker:" + forged_id, "docker:" + real["Id"]}


def test_hostile_names_and_labels_are_made_printable_and_short() -> None:
    with FakeEngine() as fake:
        evil = "\x1b[31m\n\u202e%s$(id)" + "x" * 70_000 + "\ud800"
        labels = {"openshell.ai/managed-by": "openshell", "openshell.ai/sandbox-name": evil, "openshell.ai/sandbox-id": evil}
        fake.containers = [{"Id": "a" * 64, "Names": ["/openshell-x"], "Image": evil, "State": evil, "Status": evil, "Labels": labels}]
        fake.inspect["a" * 64] = {"State": {"Pid": -1, "Running": True, "Status": evil, "StartedAt": evil}}
        (box,) = docker.find(Engine(fake.url)).sandboxes
        for text in (box.name, box.id, box.image, box.status):
            assert text is not None and text.isprintable() and len(text) <= 512
        assert box.uid == "docker:" + "a" * 64 and box.container is not None and box.container.pid == 0


def test_label_that_names_no_sandbox_confirms_nothing() -> None:
    labels = openshell.parse_labels({"openshell.ai/managed-by": "openshell"})
    assert labels is not None and not labels.managed
    labels = openshell.parse_labels({"openshell.ai/sandbox-name": "x", "openshell.ai/sandbox-id": "1"})
    assert labels is not None and not labels.managed
    assert openshell.parse_labels({"org.opencontainers.image.title": "openshell"}) is None


def test_container_asked_for_by_name_is_a_candidate_whatever_it_is_called() -> None:
    with FakeEngine("docker-openshell-0.0.72.json") as fake:
        assert "web" in by_name(docker.find(Engine(fake.url), only="web"))


def test_unchanged_containers_are_not_inspected_again() -> None:
    with FakeEngine("docker-openshell-0.0.72.json") as fake:
        finder = docker.Finder(Engine(fake.url))
        first = finder.find()
        fake.asked.clear()
        assert finder.find() == first
        assert fake.asked == ["/containers/json?all=1"]
        fake.containers[0]["Status"] = "Up 1 second"
        fake.inspect[fake.containers[0]["Id"]]["State"]["Pid"] = 5999
        place = by_name(finder.find())["my-assistant"].container
        assert place is not None and place.pid == 5999


def test_container_removed_between_list_and_inspect_is_simply_gone() -> None:
    with FakeEngine("docker-openshell-0.0.40.json") as fake:
        del fake.inspect[fake.containers[0]["Id"]]
        containers = docker.find(Engine(fake.url))
        assert "my-assistant" not in by_name(containers) and containers.warnings == ()


def test_container_that_cannot_be_inspected_is_kept_with_the_reason() -> None:
    with FakeEngine("docker-openshell-0.0.40.json") as fake:
        fake.raw["/containers/%s/json" % fake.containers[0]["Id"]] = b"nonsense"
        containers = docker.find(Engine(fake.url))
        box = by_name(containers)["my-assistant"]
        assert box.reason is not None and box.container is not None and box.container.pid == 0
        assert len(containers.warnings) == 1


def test_engine_that_goes_away_leaves_the_sandboxes_last_seen_with_status_unknown() -> None:
    with FakeEngine("docker-openshell-0.0.40.json") as fake:
        finder = docker.Finder(Engine(fake.url))
        before = finder.find()
        fake.stop()
        after = finder.find()
        assert {box.uid for box in after.sandboxes} == {box.uid for box in before.sandboxes}
        assert all(box.status is None and box.reason for box in after.sandboxes)
        assert after.error is not None and after.error.kind == "refused"
        fake.socket.unlink()
        fake.start()
        assert finder.find() == before


def test_hung_engine_is_not_asked_again_for_a_while() -> None:
    now = [0.0]
    with FakeEngine("docker-openshell-0.0.40.json") as fake:
        finder = docker.Finder(Engine(fake.url, timeout_s=0.1), clock=lambda: now[0])
        finder.find()
        fake.hang.set()
        assert len(finder.find().sandboxes) == 2
        fake.asked.clear()
        assert len(finder.find().sandboxes) == 2 and fake.asked == []
        now[0] += docker.RETRY_HUNG_S
        fake.hang.clear()
        recovered = finder.find()
        assert recovered.error is None and recovered.sandboxes[0].status == "running"


def test_reinspect_tells_new_process_and_gone_container_apart() -> None:
    with FakeEngine("docker-openshell-0.0.40.json") as fake:
        engine = Engine(fake.url)
        place = by_name(docker.find(engine))["my-assistant"].container
        assert place is not None and docker.reinspect(engine, place) == place
        fake.inspect[place.container_id]["State"].update(Pid=77, StartedAt="2026-07-02T00:00:00Z")
        again = docker.reinspect(engine, place)
        assert again == replace(place, pid=77, started_at="2026-07-02T00:00:00Z")
        del fake.inspect[place.container_id]
        assert docker.reinspect(engine, place) is None
        fake.stop()
        with pytest.raises(EngineError):
            docker.reinspect(engine, place)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["Id", "Names", "Image", "State", "Status", "Labels"]) | st.text(max_size=5), JSON, max_size=8))
def test_any_row_is_parsed_or_left_out(row: dict[str, Any]) -> None:
    parsed = docker.parse_row({**row, "Id": row.get("Id", "b" * 64)})
    if parsed is not None:
        docker.to_sandbox(parsed, None, engine="unix:///x", reasons=docker.candidate_reasons(parsed))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["docker-openshell-0.0.72.json", "docker-openshell-0.1.9.json"]), st.data())
def test_any_damage_to_an_inspection_is_survived(name: str, data: st.DataObject) -> None:
    answer = next(iter(load(name)["inspect"].values()))
    part = data.draw(st.sampled_from(["State", "Config", "HostConfig", "Path"]))
    if isinstance(answer[part], dict) and data.draw(st.booleans()):
        answer[part][data.draw(st.sampled_from(sorted(answer[part])))] = data.draw(JSON)
    else:
        answer[part] = data.draw(JSON)
    detail = docker.parse_detail(answer)
    assert 0 <= detail.pid < 2**31 and isinstance(detail.status, str)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["openshell.ai/managed-by", "openshell.managed", "openshell.ai/sandbox-name"]) | st.text(), st.text())
)
def test_any_labels_give_printable_names_or_none(labels: dict[str, str]) -> None:
    parsed = openshell.parse_labels(labels)
    for text in (parsed.name, parsed.sandbox_id, parsed.workspace, parsed.namespace) if parsed else ():
        assert text is None or (text.isprintable() and 0 < len(text) <= 253)
