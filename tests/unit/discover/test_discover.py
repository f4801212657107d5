# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whole passes over made-up hosts: the runtimes' answers, the merge, the default, and what a pass costs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clawmetry_sync.discover import Discoverer, discover, nemoclaw, openclaw
from clawmetry_sync.model import RUNTIMES, Discovery, Runtime
from clawmetry_sync.run import Result
from support.fakeengine import FIXTURES, FakeEngine

pytestmark = pytest.mark.network


@pytest.fixture(autouse=True)
def _as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs the tests does not decide whose homes of a made-up host are looked into."""
    monkeypatch.setattr("os.geteuid", lambda: 0)


def no_runner(argv: list[str], **_options: object) -> Result:
    raise AssertionError("nothing is run on this host: %r" % (argv,))


def look(root: Path, **options: Any) -> Discovery:
    return discover(root=str(root), **{"runner": no_runner, **options})


def runtime(discovery: Discovery, name: str) -> Runtime:
    return next(row for row in discovery.runtimes if row.name == name)


def populate(root: Path) -> None:
    """Alice uses NemoClaw, Bob runs OpenClaw bare."""
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text(
        "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nbob:x:1001:1001::/home/bob:/bin/sh\n"
    )
    (root / "root").mkdir()
    (root / "home/alice/.nemoclaw").mkdir(parents=True)
    (root / "home/alice/.nemoclaw/sandboxes.json").write_bytes((FIXTURES / "registry-2026-07.json").read_bytes())
    (root / "home/bob/.openclaw/agents/main/sessions").mkdir(parents=True)


@pytest.fixture
def host() -> Iterator[FakeEngine]:
    with FakeEngine("docker-openshell-0.0.72.json", "docker-openshell-0.0.111.json") as fake:
        populate(fake.root)
        yield fake


def test_every_sandbox_of_a_busy_host_once(host: FakeEngine) -> None:
    discovery = look(host.root)
    confirmed = [(box.name, box.type, box.status, box.phase_source) for box in discovery.sandboxes if box.confirmed]
    assert confirmed == [
        ("build-7", "nemoclaw", "running", "docker"),
        ("my-assistant", "nemoclaw", "running", "docker"),
        ("researcher", "nemoclaw", "stopped", "docker"),
        ("openclaw@bob", "bare", "present", "host"),
    ]
    assert [box.name for box in discovery.sandboxes if not box.confirmed] == ["cuda-job"]
    assert discovery.warnings == ()
    assert [row.name for row in discovery.runtimes] == list(RUNTIMES)
    present = {row.name: row.present for row in discovery.runtimes}
    assert present == {"nemoclaw": True, "openshell": True, "docker": True, "podman": False, "k3s": False, "openclaw": True}


def test_default_is_the_registry_s_and_is_one(host: FakeEngine) -> None:
    assert [box.name for box in look(host.root).sandboxes if box.default] == ["researcher"]


def test_default_without_a_registry_is_the_first_confirmed(host: FakeEngine) -> None:
    discovery = look(host.root, enabled=["docker", "openclaw"])
    assert [box.name for box in discovery.sandboxes if box.default] == ["build-7"]


def test_candidate_is_default_only_when_nothing_is_confirmed(host: FakeEngine) -> None:
    discovery = look(host.root, enabled=["docker"], include=["cuda-*"])
    assert [(box.name, box.default) for box in discovery.sandboxes] == [("cuda-job", True)]


@pytest.mark.parametrize("wanted", ["my-assistant", "4b7e11d0"])
def test_nemoclaw_sandbox_restricts_by_name_or_id(host: FakeEngine, wanted: str) -> None:
    discovery = look(host.root, only=wanted)
    assert [(box.name, box.default) for box in discovery.sandboxes] == [("my-assistant", True)]


def test_nemoclaw_sandbox_accepts_the_short_container_id(host: FakeEngine) -> None:
    assert [box.name for box in look(host.root, only=host.containers[0]["Id"][:12]).sandboxes] == ["my-assistant"]


def test_nemoclaw_sandbox_that_is_not_there_is_said(host: FakeEngine) -> None:
    discovery = look(host.root, only="missing\x1b[31m")
    assert discovery.sandboxes == ()
    (warning,) = discovery.warnings
    assert "missing" in warning and "not found" in warning and warning.isprintable()


def test_include_and_exclude_are_patterns_on_names(host: FakeEngine) -> None:
    discovery = look(host.root, include=["*-*", "openclaw@*"], exclude=["build-*", "cuda*"])
    assert [box.name for box in discovery.sandboxes] == ["my-assistant", "openclaw@bob"]


def test_runtime_that_is_not_asked_for_has_a_row_that_says_so(host: FakeEngine) -> None:
    discovery = look(host.root, enabled=[])
    assert discovery.sandboxes == () and host.asked == []
    assert all(row.present is None and row.evidence == ("not asked for",) for row in discovery.runtimes)


def test_nemoclaw_alone_brings_its_containers_and_no_others(host: FakeEngine) -> None:
    discovery = look(host.root, enabled=["nemoclaw"])
    assert [box.name for box in discovery.sandboxes] == ["build-7", "my-assistant", "researcher"]
    assert runtime(discovery, "docker").evidence == ("not asked for",)


def test_registry_entry_says_when_the_engine_could_not_be_asked(tmp_path: Path) -> None:
    populate(tmp_path)
    reasons = {box.reason for box in look(tmp_path).sandboxes if box.type == "nemoclaw"}
    assert reasons == {"registry entry; the container engine could not be asked"}


def test_registry_entry_without_container_is_a_row_with_its_reason(host: FakeEngine) -> None:
    host.containers = [row for row in host.containers if "researcher" not in row["Names"][0]]
    box = next(box for box in look(host.root).sandboxes if box.name == "researcher")
    assert box.uid == "registry:nemoclaw-18080:researcher" and box.status is None and box.container is None
    assert box.reason == "registry entry without a running container seen"


def test_registry_left_by_an_uninstall_is_no_proof_of_nemoclaw(tmp_path: Path) -> None:
    populate(tmp_path)
    row = runtime(look(tmp_path), "nemoclaw")
    assert row.present is None and "registry /home/alice/.nemoclaw/sandboxes.json: 2 sandbox(es)" in row.evidence


def test_nemoclaw_shim_in_a_home_is_presence(tmp_path: Path) -> None:
    populate(tmp_path)
    shim = tmp_path / "home/alice/.local/bin/nemoclaw"
    shim.parent.mkdir(parents=True)
    shim.write_text("#!/bin/bash\n")
    shim.chmod(0o777)
    row = runtime(look(tmp_path), "nemoclaw")
    assert (row.present, row.path, row.user) == (True, "/home/alice/.local/bin/nemoclaw", "alice")


def test_bare_host_has_nothing_and_knows_it(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    discovery = look(tmp_path, homes="auto")
    assert discovery.sandboxes == () and discovery.warnings == ()
    assert {row.name: row.present for row in discovery.runtimes} == dict.fromkeys(RUNTIMES, False)


def test_denied_engine_is_unknown_and_says_what_to_do(host: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("socket.socket.connect", denied)
    discovery = look(host.root)
    row = runtime(discovery, "docker")
    assert row.present is None and "permission denied" in row.evidence[0] and "Next:" in row.evidence[0]
    assert any(text.startswith("docker: ") for text in discovery.warnings)
    assert "openclaw@bob" in [box.name for box in discovery.sandboxes]


def test_podman_behind_docker_s_socket_is_podman(tmp_path: Path) -> None:
    with FakeEngine("podman-openshell-0.0.72.json") as fake:
        discovery = look(fake.root)
        assert runtime(discovery, "docker").present is False and runtime(discovery, "podman").present is True
        assert [box.name for box in discovery.sandboxes] == ["notes"]


def test_sandbox_of_the_k3s_era_says_where_it_may_be(tmp_path: Path) -> None:
    with FakeEngine("docker-openshell-0.0.26.json") as fake:
        populate(fake.root)
        discovery = look(fake.root)
        assert runtime(discovery, "k3s").present is True and runtime(discovery, "openshell").present is True
        box = next(box for box in discovery.sandboxes if box.name == "my-assistant")
        assert box.reason is not None and "openshell-cluster-nemoclaw" in box.reason


@pytest.mark.parametrize("broken", ["docker", "nemoclaw", "openclaw", "accounts"])
def test_one_broken_runtime_hides_no_other(host: FakeEngine, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def fail(*_arguments: object, **_options: object) -> Any:
        raise RuntimeError("broken \x1b[31m")

    discoverer = Discoverer(root=str(host.root), runner=no_runner)
    target = {
        "docker": "clawmetry_sync.discover.docker.Finder.find",
        "nemoclaw": "clawmetry_sync.discover.nemoclaw.Registries.find",
        "openclaw": "clawmetry_sync.discover.openclaw.find",
        "accounts": "clawmetry_sync.discover.read_accounts",
    }[broken]
    monkeypatch.setattr(target, fail)
    discovery = discoverer.discover()
    assert len(discovery.runtimes) == len(RUNTIMES)
    assert any("broken" in text and text.isprintable() for text in discovery.warnings)
    names = {box.name for box in discovery.sandboxes}
    assert ("openclaw@bob" in names) is (broken not in ("openclaw", "accounts"))
    assert ("build-7" in names) is (broken != "docker")


def test_failing_probe_is_an_unknown_runtime(host: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_options: object) -> Any:
        raise RuntimeError("x")

    monkeypatch.setattr(nemoclaw, "probe", fail)
    monkeypatch.setattr(openclaw, "probe", fail)
    discovery = look(host.root)
    assert runtime(discovery, "nemoclaw").present is None and runtime(discovery, "openclaw").evidence == ("looking for it failed",)


def test_second_pass_over_an_unchanged_host_asks_for_the_list_only(host: FakeEngine) -> None:
    discoverer = Discoverer(root=str(host.root), runner=no_runner)
    first = discoverer.discover()
    host.asked.clear()
    assert discoverer.discover() == first
    assert host.asked == ["/containers/json?all=1"]


def test_address_that_is_no_unix_socket_is_a_warning(tmp_path: Path) -> None:
    discovery = look(tmp_path, docker_host="tcp://10.0.0.1:2375")
    row = runtime(discovery, "docker")
    assert row.present is None and "only unix:// engine addresses" in row.evidence[0]
