# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""NemoClaw's own words by era, and that they are asked for with ``deep`` only."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from clawmetry_sync.discover import nemoclawcli as cli
from clawmetry_sync.model import ContainerPlace, Inference, Sandbox, Security
from support.samples import damaged, sample


def listing(name: str) -> cli.Listing:
    found = cli.parse_listing(sample(name))
    assert found is not None
    return found


def test_march_prints_text_even_with_json() -> None:
    first, second = listing("nemoclaw-2026-03-list.txt").sandboxes
    assert first == cli.Seen("my-assistant", Inference("nvidia-nim", "nvidia/nemotron"), ("npm", "pypi"), default=True)
    assert second == cli.Seen("researcher", Inference(), ())


def test_march_s_status_names_the_sandboxes() -> None:
    assert [(row.name, row.inference.model, row.default) for row in listing("nemoclaw-2026-03-status.txt").sandboxes] == [
        ("my-assistant", "nvidia/nemotron", True),
        ("researcher", None, False),
    ]


def test_july_s_list() -> None:
    first, second, third = listing("nemoclaw-2026-07-list.json").sandboxes
    assert (first.agent, first.policies, first.driver, first.openshell_version) == ("openclaw", ("npm", "pypi"), "docker", "0.0.72")
    assert (second.agent, second.policies, second.inference) == ("hermes", (), Inference("nvidia-prod", None))
    assert (third.agent, third.policies, third.phase) == (None, None, "Ready")


def test_july_s_status_tells_the_gateway_s_health() -> None:
    found = listing("nemoclaw-2026-07-status.json")
    assert (found.gateway_healthy, found.gateway_state) == (False, "named_unreachable")


def test_later_list_behind_a_warning_of_node() -> None:
    (row,) = listing("nemoclaw-2026-10-list.json").sandboxes
    assert (row.agent, row.phase, row.policies) == ("openclaw", "Stopped", ("npm_yarn",))


@pytest.mark.parametrize(
    ("name", "phase", "policies", "driver"),
    [
        ("nemoclaw-2026-03-name-status.txt", "Ready", ("npm", "pypi"), None),
        ("nemoclaw-2026-07-name-status.txt", "Error", (), "docker"),
        ("nemoclaw-2026-07-name-status.json", "Ready", ("npm",), "docker"),
    ],
)
def test_one_sandbox_s_status(name: str, phase: str, policies: object, driver: object) -> None:
    seen = cli.parse_one(sample(name), "my-assistant")
    assert seen is not None and (seen.phase, seen.policies, seen.driver) == (phase, policies, driver)
    assert seen.inference.model == "nvidia/nemotron"
    assert cli.parse_one(sample(name), "another") is None


@pytest.mark.parametrize("output", [b"", b"{", b"[]", b'{"sandboxes": 7}', b'{"a":' * 100_000, b"Unknown command\n", b"\xff" * 100])
def test_what_is_no_answer_is_none(output: bytes) -> None:
    assert cli.parse_listing(output) is None and cli.parse_one(output, "x") is None


@settings(max_examples=300, deadline=None)
@given(damaged("nemoclaw-"))
def test_damaged_output_never_breaks_a_parser(output: bytes) -> None:
    found = cli.parse_listing(output)
    for row in found.sandboxes if found else ():
        assert row.name.isprintable()
    cli.parse_one(output, "my-assistant")


def box(**changes: object) -> Sandbox:
    place = ContainerPlace("unix:///x", "c" * 64, 7, "t", True)
    values: dict[str, object] = {
        "uid": "docker:c", "name": "a", "type": "nemoclaw", "status": "running", "phase_source": "docker", "container": place,
        "evidence": ("label openshell.ai/*", "registry /home/alice/.nemoclaw/sandboxes.json"), "confirmed": True,
    }  # fmt: skip
    return Sandbox(**{**values, **changes})


def seen(**changes: object) -> cli.Seen:
    return cli.Seen(**{"name": "a", "source": "nemoclaw a status", "home": "/home/alice", **changes})


def test_container_s_state_is_believed_before_the_phase() -> None:
    (row,) = cli.apply([box()], [seen(phase="Error", gateway_state="gateway_unreachable_after_restart")])
    assert (row.status, row.phase_source) == ("running", "docker")
    assert row.evidence[-1] == "nemoclaw a status: phase Error, gateway gateway_unreachable_after_restart"


def test_phase_stands_in_where_nothing_else_tells() -> None:
    (row,) = cli.apply([box(status=None, container=None)], [seen(phase="Ready", policies=("npm",), inference=Inference("p", "m"))])
    assert (row.status, row.phase_source, row.security, row.inference) == (
        "running",
        "nemoclaw",
        Security(policies=("npm",)),
        Inference("p", "m"),
    )


def test_another_user_s_sandbox_of_that_name_learns_nothing() -> None:
    assert cli.apply([box()], [seen(phase="Error", home="/home/bob"), seen(phase="Error", name="b")]) == [box()]


def test_different_model_is_said_and_not_taken() -> None:
    (row,) = cli.apply([box(inference=Inference("p", "m"))], [seen(inference=Inference("p", "other"))])
    assert row.inference == Inference("p", "m") and "model other" in row.evidence[-1]
