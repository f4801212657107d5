# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""NemoClaw's registries: every era's shape, every way a file can be wrong, and what joins with a container."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawmetry_sync.discover import nemoclaw
from clawmetry_sync.discover.accounts import Account, Accounts
from clawmetry_sync.discover.binaries import Lookups
from clawmetry_sync.model import ContainerPlace, Sandbox
from support.fakeengine import FIXTURES


def sample(name: str) -> bytes:
    return (FIXTURES / ("registry-%s.json" % name)).read_bytes()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / ".nemoclaw").mkdir(mode=0o700)
    return tmp_path


def account(home: Path) -> Account:
    return Account("alice", 1000, "/home/alice", str(home))


def read(home: Path, registries: nemoclaw.Registries) -> list[nemoclaw.Found]:
    return registries.find([account(home)])


def no_sleep() -> nemoclaw.Registries:
    return nemoclaw.Registries(sleep=lambda _seconds: None)


def names(found: nemoclaw.Found) -> list[str]:
    return [entry.name for entry in found.registry.entries] if found.registry else []


def container(name: str, ident: str = "a", **changes: Any) -> Sandbox:
    place = ContainerPlace("unix:///x", ident * 64, 7, "t", True)
    values: dict[str, Any] = {"uid": "docker:" + ident * 64, "name": name, "type": "nemoclaw", "status": "running", "confirmed": True}
    return Sandbox(**{**values, "phase_source": "docker", "container": place, **changes})


@pytest.mark.parametrize(
    ("era", "expected", "default"),
    [
        ("2026-03", [("my-assistant", "openclaw", "nemoclaw", ("pypi", "npm")), ("fresh", "openclaw", "nemoclaw", ())], "my-assistant"),
        (
            "2026-07",
            [("my-assistant", "openclaw", "nemoclaw", ("npm", "pypi")), ("researcher", "hermes", "nemoclaw-18080", ())],
            "researcher",
        ),
        ("2026-09", [("build-7", "openclaw", "nemoclaw", None)], "build-7"),
    ],
)
def test_registry_of_each_era(era: str, expected: list[Any], default: str) -> None:
    registry = nemoclaw.parse_registry(sample(era))
    assert [(entry.name, entry.agent, entry.gateway, entry.policies) for entry in registry.entries] == expected
    assert registry.default == default and registry.skipped == ()


def test_only_whitelisted_fields_are_taken() -> None:
    for era in ("2026-03", "2026-07", "2026-09"):
        text = repr(nemoclaw.parse_registry(sample(era)))
        assert "canary" not in text and "corp" not in text and "CORP_KEY" not in text


def test_hostile_registry_gives_only_the_valid_entry_made_printable() -> None:
    registry = nemoclaw.parse_registry(sample("hostile"))
    (entry,) = registry.entries
    assert (entry.name, entry.agent, entry.inference.model, entry.policies) == ("fine", "ab", "xy", ("ok", "[1m"))
    assert entry.gateway is None and registry.default is None
    assert len(registry.skipped) == 7 and all(text.isprintable() for text in registry.skipped)


@pytest.mark.parametrize(
    ("entry", "gateway"),
    [
        ({}, "nemoclaw"),
        ({"gatewayPort": 8080, "gatewayName": "nemoclaw-9"}, "nemoclaw"),
        ({"gatewayPort": 18080}, "nemoclaw-18080"),
        ({"gatewayName": "nemoclaw-18080"}, "nemoclaw-18080"),
        ({"gatewayName": "nemoclaw-8080"}, None),
        ({"gatewayName": "other"}, None),
        ({"gatewayPort": True}, None),
        ({"gatewayPort": "8080"}, None),
        ({"gatewayPort": 0}, None),
        ({"gatewayPort": 10**30}, None),
    ],
)
def test_gateway_is_derived_or_unknown(entry: dict[str, object], gateway: object) -> None:
    assert nemoclaw.gateway_of(entry) == gateway


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"sandboxes": []}', b"[" * 100_000, b"\xff\xfe\x00", b'{"sandboxes": 1}'])
def test_what_is_no_registry_is_an_error_and_never_empty(data: bytes) -> None:
    with pytest.raises(ValueError):
        nemoclaw.parse_registry(data)


def test_absent_empty_and_unreadable_are_three_answers(home: Path) -> None:
    registries = no_sleep()
    assert read(home, registries) == []
    (home / ".nemoclaw/sandboxes.json").write_bytes(b'{"sandboxes": {}, "defaultSandbox": null}')
    (found,) = read(home, registries)
    assert found.registry is not None and found.registry.entries == () and found.error is None
    (home / ".nemoclaw/sandboxes.json").write_bytes(b"")
    (found,) = read(home, no_sleep())
    assert found.registry is None and found.error is not None


def test_gateway_roots_are_read_within_bounds(home: Path) -> None:
    gateways = home / ".nemoclaw/gateways"
    for name in ("18080", "9", "123456", "x", "-1", "18080.bak"):
        (gateways / name).mkdir(parents=True)
        (gateways / name / "sandboxes.json").write_bytes(b'{"sandboxes": {"one": {"name": "one"}}}')
    (gateways / "7777").symlink_to(gateways / "x")
    found = {item.path: item for item in read(home, no_sleep())}
    good = {path for path, item in found.items() if item.registry}
    assert good == {"/home/alice/.nemoclaw/gateways/%s/sandboxes.json" % port for port in ("18080", "9")}
    assert [entry.gateway for path in sorted(good) for entry in (found[path].registry or nemoclaw.Registry()).entries] == [
        "nemoclaw-18080",
        "nemoclaw-9",
    ]
    assert found["/home/alice/.nemoclaw/gateways/7777/sandboxes.json"].error is not None


def test_half_written_registry_is_read_again(home: Path) -> None:
    path = home / ".nemoclaw/sandboxes.json"
    path.write_bytes(sample("2026-03")[:200])
    registries = nemoclaw.Registries(sleep=lambda _seconds: None if path.write_bytes(sample("2026-03")) else None)
    (found,) = read(home, registries)
    assert names(found) == ["my-assistant", "fresh"] and found.error is None


def test_last_good_copy_stands_in_for_a_broken_one(home: Path) -> None:
    path = home / ".nemoclaw/sandboxes.json"
    path.write_bytes(sample("2026-03"))
    registries = no_sleep()
    read(home, registries)
    path.write_bytes(sample("2026-03")[:200])
    (found,) = read(home, registries)
    assert names(found) == ["my-assistant", "fresh"] and found.error is not None


def test_unchanged_registry_is_not_parsed_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / ".nemoclaw/sandboxes.json"
    path.write_bytes(sample("2026-03"))
    registries = no_sleep()
    first = read(home, registries)
    monkeypatch.setattr(nemoclaw, "parse_registry", lambda *_arguments: pytest.fail("parsed again"))
    assert read(home, registries) == first


def test_registry_that_is_a_link_is_refused(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    secret = tmp_path_factory.mktemp("host") / "secret.json"
    secret.write_bytes(b'{"sandboxes": {"stolen": {"name": "stolen"}}}')
    (home / ".nemoclaw/sandboxes.json").symlink_to(secret)
    (found,) = read(home, no_sleep())
    assert found.registry is None and found.error is not None and "link" in found.error + repr(found)


def test_nemoclaw_directory_that_is_a_link_is_refused(home: Path) -> None:
    (home / ".nemoclaw").rmdir()
    (home / "elsewhere").mkdir()
    (home / "elsewhere/sandboxes.json").write_bytes(sample("2026-03"))
    (home / ".nemoclaw").symlink_to("elsewhere")
    (found,) = read(home, no_sleep())
    assert found.registry is None and found.error is not None


def test_fifo_directory_and_hard_link_as_registry_do_not_hang(home: Path) -> None:
    path = home / ".nemoclaw/sandboxes.json"
    os.mkfifo(path)
    (found,) = read(home, no_sleep())
    assert found.error is not None and "FIFO" in found.error
    path.unlink()
    path.mkdir()
    (found,) = read(home, no_sleep())
    assert found.error is not None
    path.rmdir()
    (home / "other").write_bytes(sample("2026-03"))
    os.link(home / "other", path)
    (found,) = read(home, no_sleep())
    assert found.error is not None and found.registry is None


def test_registry_of_17_mib_is_refused(home: Path) -> None:
    with open(home / ".nemoclaw/sandboxes.json", "wb") as stream:
        stream.write(b'{"sandboxes": {}}')
        stream.truncate(17 * 1024 * 1024)
    (found,) = read(home, no_sleep())
    assert found.registry is None and found.error is not None and "larger" in found.error


def test_entry_and_its_one_container_are_one_sandbox() -> None:
    found = nemoclaw.Found("/r", "alice", nemoclaw.parse_registry(sample("2026-07")))
    boxes, warnings = nemoclaw.merge([container("my-assistant"), container("other", "b")], [found])
    merged = {box.name: box for box in boxes}
    box = merged["my-assistant"]
    assert box.uid == "docker:" + "a" * 64 and box.status == "running" and box.phase_source == "docker"
    assert box.inference.provider == "nvidia-prod" and box.security.policies == ("npm", "pypi")
    assert box.agent == "openclaw" and box.gateway == "nemoclaw"
    assert merged["researcher"].uid == "registry:nemoclaw-18080:researcher" and merged["researcher"].container is None
    assert merged["researcher"].status is None and merged["researcher"].reason and merged["researcher"].confirmed
    assert merged["other"].inference.model is None and warnings == []


def test_forged_container_of_the_same_name_gets_no_registry_data() -> None:
    found = nemoclaw.Found("/r", "alice", nemoclaw.parse_registry(sample("2026-03")))
    boxes, warnings = nemoclaw.merge([container("my-assistant", "a"), container("my-assistant", "b")], [found])
    assert all(box.inference.model is None for box in boxes if box.container is not None)
    assert len(boxes) == 4 and len(warnings) == 1


def test_unlabelled_container_is_not_joined_by_its_name() -> None:
    found = nemoclaw.Found("/r", "alice", nemoclaw.parse_registry(sample("2026-03")))
    boxes, _warnings = nemoclaw.merge([container("my-assistant", confirmed=False, type="docker")], [found])
    assert {box.uid for box in boxes} >= {"registry:nemoclaw:my-assistant", "docker:" + "a" * 64}


def test_same_name_of_two_users_gives_two_identities() -> None:
    registry = nemoclaw.parse_registry(sample("2026-09"))
    found = [nemoclaw.Found("/home/%s/r" % user, user, registry) for user in ("alice", "bob")]
    boxes, _warnings = nemoclaw.merge([], found)
    assert len({box.uid for box in boxes}) == 2


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: json.dumps(text).encode()))
def test_any_bytes_parse_or_raise_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        nemoclaw.parse_registry(data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_to_a_registry_is_survived(data: st.DataObject) -> None:
    whole = sample(data.draw(st.sampled_from(["2026-03", "2026-07", "2026-09", "hostile"])))
    start = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:start] + data.draw(st.binary(max_size=8)) + whole[start + data.draw(st.integers(0, 40)) :]
    try:
        registry = nemoclaw.parse_registry(damaged)
    except ValueError:
        return
    for entry in registry.entries:
        texts = (entry.name, entry.agent, entry.gateway, entry.created_at, entry.inference.model, *(entry.policies or ()))
        assert all(text is None or text.isprintable() for text in texts)


def test_a_registry_that_names_no_default_means_its_first_entry() -> None:
    entries = {name: {"name": name} for name in ("zeta", "alpha")}
    unnamed = nemoclaw.parse_registry(json.dumps({"sandboxes": entries, "defaultSandbox": None}).encode())
    dangling = nemoclaw.parse_registry(json.dumps({"sandboxes": entries, "defaultSandbox": "gone"}).encode())
    named = nemoclaw.parse_registry(json.dumps({"sandboxes": entries, "defaultSandbox": "alpha"}).encode())
    empty = nemoclaw.parse_registry(b'{"sandboxes": {}}')
    found = [nemoclaw.Found("/%d" % number, None, registry) for number, registry in enumerate((unnamed, dangling, named, empty))]
    found.append(nemoclaw.Found("/bad", None, None, "unreadable"))
    assert nemoclaw.defaults(found) == [("/2", "alpha"), ("/0", "zeta"), ("/1", "zeta")]


def test_a_directory_without_a_registry_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "home/alice/.nemoclaw").mkdir(parents=True)
    lookups = Lookups(root=str(tmp_path), runner=lambda *args, **options: pytest.fail("nothing is to be run"), euid=0)
    row = nemoclaw.probe(lookups=lookups, accounts=Accounts((account(tmp_path / "home/alice"),), True), registries=[], live=0)
    assert row.present is None and "/home/alice/.nemoclaw without a registry" in row.evidence[0]
