# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the openshell CLI of each era prints, and the same damaged."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawmetry_sync.discover import openshelltext as text
from clawmetry_sync.model import Inference
from support.samples import SAMPLES, damaged, sample


def names(output: bytes) -> list[str]:
    rows = text.parse_list(output)
    assert rows is not None
    return [row.name for row in rows]


def test_table_with_a_namespace_column() -> None:
    rows = text.parse_list(sample("openshell-0.0.26-sandbox-list.txt")) or ()
    assert [(row.name, row.phase, row.id) for row in rows] == [
        ("my-assistant", "Ready", None),
        ("build-7", "Provisioning", None),
        ("two words here", "Error", None),
        ("bücher", "Unknown", None),
        ("leaving", "Deleting", None),
    ]


def test_table_without_it() -> None:
    assert names(sample("openshell-0.0.40-sandbox-list.txt")) == ["my-assistant", "researcher"]


def test_json_lists_carry_ids_and_from_0_0_88_workspaces() -> None:
    old, new = (text.parse_list(sample("openshell-%s-sandbox-list.json" % version)) for version in ("0.0.72", "0.0.111"))
    assert old == (text.Listed("my-assistant", "Ready", "4b7e11d0", None, 2), text.Listed("researcher", "Error", "77aa0c3f", None, 0))
    assert [(row.name, row.workspace, row.id) for row in new or ()] == [("build-7", "default", "9f01"), ("build-7", "night", "9f02")]


@pytest.mark.parametrize("output", [b"No sandboxes found.\n", b"[]\n"])
def test_empty_list_is_a_list(output: bytes) -> None:
    assert text.parse_list(output) == ()


@pytest.mark.parametrize("output", [b"", b"\n", b"{}", b"[", b"error: x\n", b"\xff\xfe", b"NAME\n", b"[" * 100_000, b'{"a":' * 100_000])
def test_what_is_no_list_is_none(output: bytes) -> None:
    assert text.parse_list(output) is None


def test_json_rows_that_are_none_are_left_out() -> None:
    assert names(b'[1, null, {"name": 7}, {"name": "\\u001b[31mred", "current_policy_version": -1}]') == ["[31mred"]


@pytest.mark.parametrize("version", ["0.0.26", "0.0.72"])
def test_get_as_text_gives_the_id_and_not_the_policy_s_words(version: str) -> None:
    assert text.parse_get(sample("openshell-%s-sandbox-get.txt" % version)) == text.Listed("my-assistant", "Ready", "4b7e11d0")


def test_get_as_json() -> None:
    assert text.parse_get(sample("openshell-0.0.92-sandbox-get.json")) == text.Listed("build-7", "Ready", "9f01", "default")


@pytest.mark.parametrize(
    ("name", "networks", "version", "source", "in_force"),
    [
        ("openshell-0.0.26-policy-full.txt", ("npm_yarn", "quoted key"), 2, None, True),
        ("openshell-0.0.72-policy-base.txt", ("npm_yarn", "quoted key"), 3, "global", True),
        ("openshell-0.0.72-policy-base.json", ("npm_yarn", "github"), 2, "sandbox", True),
        ("openshell-0.0.26-policy.txt", None, 2, None, None),
    ],
)
def test_policies(name: str, networks: object, version: int, source: object, in_force: object) -> None:
    policy = text.parse_policy(sample(name))
    assert (policy.networks, policy.version, policy.source, policy.in_force) == (networks, version, source, in_force)


@pytest.mark.parametrize(
    ("document", "keys"),
    [
        ("version: 1\n", ()),
        ("version: 1\nnetwork_policies: {}\n", ()),
        ("version: 1\nnetwork_policies:\n", ()),
        ("network_policies:\n    a:\n        name: x\n    b: {}\nprocess:\n  c:\n", ("a", "b")),
        ("network_policies: {a: 1}\n", None),
        ("network_policies:\n  - a\n", None),
        ("network_policies:\n  a:\n    x: 1\n b:\n", None),
        ("", None),
        ("nothing of it\n", None),
    ],
)
def test_keys_of_a_policy_without_a_yaml_parser(document: str, keys: object) -> None:
    assert text.network_keys(document) == keys


def test_policy_that_failed_to_load_is_not_said_to_be_in_force() -> None:
    failed = sample("openshell-0.0.26-policy-full.txt").replace(b"Loaded\n", b"Failed\n")
    assert text.parse_policy(failed).networks is not None and text.parse_policy(failed).in_force is None


def test_inference_routes() -> None:
    assert text.parse_inference(sample("openshell-0.0.26-inference.txt")) == Inference("nvidia-prod", "nvidia/nemotron-3-super-120b-a12b")
    assert text.parse_inference(sample("openshell-0.0.111-inference.txt")) == Inference("ollama-local", "m-2")
    assert text.parse_inference(sample("openshell-0.0.72-inference-none.txt")) == Inference()
    assert text.parse_inference(b"") is None


def test_gateways() -> None:
    first = text.Gateway("nemoclaw", "http://127.0.0.1:8080", True)
    assert text.parse_gateways(sample("openshell-0.0.72-gateway-list.json")) == (first,)
    assert text.parse_gateways(sample("openshell-0.0.40-gateway-list.txt")) == (first, text.Gateway("other", "https://10.1.2.3:17670"))


def test_status() -> None:
    assert text.parse_status(sample("openshell-0.0.72-status.txt")) == text.Status("nemoclaw", True, "0.0.72")
    assert text.parse_status(b"Status: No gateway configured.\n").connected is False
    assert text.parse_status(b"") == text.Status()


OLD = "Error:   × status: %s, message: \"forced\",\n  │ details: [], metadata: MetadataMap { headers: {} }\n"
NEW = "Error:   × code: '%s', message: \"forced\"\n"


@pytest.mark.parametrize(
    ("rc", "stderr", "kind"),
    [
        (2, "error: unexpected argument '-o' found\n", "usage"),
        (2, "error: unrecognized subcommand 'list'\n", "usage"),
        (1, OLD % "Unavailable", "unavailable"),
        (1, NEW % "The service is currently unavailable", "unavailable"),
        (1, OLD % "Unauthenticated", "unauthenticated"),
        (1, "Error:   × code: 'The request does not have valid authentication credentials',\n  │ message: \"x\"\n", "unauthenticated"),
        (1, OLD % "PermissionDenied", "denied"),
        (1, "Error:   × code: 'The caller does not have permission to execute the specified\n  │ operation', message: \"x\"\n", "denied"),
        (1, OLD % "NotFound", "not_found"),
        (1, NEW % "Some requested entity was not found", "not_found"),
        (1, NEW % "Operation is not implemented or not supported", "unsupported"),
        (1, "Error:   × No active gateway.\n", "no_gateway"),
        (1, "Error:   × transport error\n  ├─▶ tcp connect error\n  ╰─▶ Connection refused (os error 111)\n", "unreachable"),
        (1, "Error:   × client error (SendRequest)\n  ╰─▶ received unexpected message from connection\n", "unreachable"),
        (1, "Error:   × code: 'Internal error', message: \"Unauthenticated, tcp connect error\"\n", "other"),
        (1, "", "other"),
        (101, "thread 'main' panicked\n", "other"),
    ],
)
def test_error_classes(rc: int, stderr: str, kind: str) -> None:
    assert text.error_kind(rc, stderr.encode()) == kind


@settings(max_examples=300, deadline=None)
@given(damaged("openshell-"))
def test_damaged_output_never_breaks_a_parser(output: bytes) -> None:
    for row in text.parse_list(output) or ():
        assert row.name.isprintable()
    got = text.parse_get(output)
    assert got is None or got.name.isprintable()
    for name in text.parse_policy(output).networks or ():
        assert name.isprintable()
    text.parse_inference(output)
    for gateway in text.parse_gateways(output) or ():
        assert gateway.name.isprintable()
    text.parse_status(output)
    assert text.error_kind(1, output) in {
        "no_gateway", "unauthenticated", "denied", "not_found", "unavailable", "unsupported", "unreachable", "other",
    }  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=2000))
def test_any_yaml_gives_keys_or_nothing(document: str) -> None:
    found = text.network_keys(document)
    assert found is None or len(found) <= text.MAX_KEYS


def test_long_lines_cost_no_more_than_their_length() -> None:
    for piece in (b" ", b"a ", b"- ", b"\x1b[", b"\x1b]", b"a  2026-01-01 00:00:00", b": "):
        text.parse_list(b"NAME CREATED PHASE\n" + piece * 20_000)
        text.parse_list(b"NAME CREATED PHASE\nx" + piece * 20_000)
        text.parse_policy(b"Version: 1\n---\nnetwork_policies:\n  " + piece * 20_000)
        text.error_kind(1, piece * 20_000)


def test_samples_are_there() -> None:
    assert len(SAMPLES) > 20
