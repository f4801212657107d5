# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading what OpenShell prints, and the change to a policy: ours only, everything else as it was."""

from __future__ import annotations

import builtins
import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawmetry_sync.egress import policy, render, rule
from support.openshell_cli import BASE, COMPOSED

RULE = rule.build(binary="/opt/clawmetry/venv/bin/python3")
OURS = {"clawmetry_ingest": render.entry(RULE)}
HEAD_0_0_40 = "Version:      3\nHash:         33\nStatus:       Failed\nActive:       2\nCreated:      17 ms\nLoaded:       17 ms\n"
HEAD_0_0_72 = "Version:      2\nHash:         22\nStatus:       Effective\nSource:       sandbox\nConfig rev:   7\n"


def text(head: str, document: Any) -> bytes:
    return (head + "---\n" + render.yaml(document)).encode()


def with_policies(**entries: Any) -> dict[str, Any]:
    return {**copy.deepcopy(BASE), "network_policies": {**copy.deepcopy(BASE["network_policies"]), **entries}}


def test_the_header_of_0_0_40_tells_the_newest_and_the_active_revision() -> None:
    read = policy.parse_text(text(HEAD_0_0_40, BASE))
    assert (read.revision, read.active, read.status, read.is_global) == (3, 2, "failed", None)
    assert read.document == BASE


def test_the_header_of_0_0_72_tells_the_source() -> None:
    read = policy.parse_text(text(HEAD_0_0_72, BASE))
    assert (read.revision, read.active, read.is_global) == (2, None, False)
    assert policy.parse_text(text(HEAD_0_0_72.replace("sandbox", "global"), BASE)).is_global is True


def test_json_tells_the_same() -> None:
    answer = {"active_version": 2, "version": 2, "status": "effective", "policy_source": "sandbox", "scope": "sandbox", "policy": BASE}
    read = policy.parse_json(json.dumps(answer).encode())
    assert (read.revision, read.active, read.status, read.is_global, read.document) == (2, 2, "effective", False, BASE)


def test_what_the_gateway_composed_is_no_part_of_the_policy() -> None:
    document = with_policies(_provider_nvidia=COMPOSED)
    assert policy.parse_text(text(HEAD_0_0_72, document)).document == BASE
    assert policy.parse_json(json.dumps({"policy": document}).encode()).document == BASE


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"Version: 2\n",
        b"Version: 2\n---\n",
        b"Version: 2\n---\n- a\n",
        b"Version: 2\n---\nnetwork_policies: {}\n",
        b"Version: 2\n---\nversion: 1\nnetwork_policies: [a]\n",
        b"Version: 2\n---\nversion: 1\nnetwork_policies: {a: b}\n",
        b"Version: 2\n---\nversion: [\n",
        b"Version: 2\n---\n!!python/object/apply:os.system [true]\n",
        b"Version: 2\n---\nversion: 1\nx: !!binary aGk=\n",
        b"\xff\xfe\x00",
        b"Version: 2\n---\nversion: 1\na: &a [x]\nb: [*a, *a]\n",
        b"Version: 2\n---\nversion: 1\nx: " + b"a" * policy.MAX_POLICY_BYTES,
    ],
)
def test_text_that_is_no_policy_is_refused(output: bytes) -> None:
    with pytest.raises(policy.PolicyError, match="cannot understand the policy"):
        policy.parse_text(output)


@pytest.mark.parametrize("output", [b"", b"[]", b"{}", b'{"policy": null}', b'{"policy": {"version": 1.5}}', b"[" * 100_000])
def test_json_that_is_no_policy_is_refused(output: bytes) -> None:
    with pytest.raises(policy.PolicyError, match="cannot understand the policy"):
        policy.parse_json(output)


def test_texts_that_old_yaml_takes_for_something_else_stay_texts() -> None:
    loaded = policy.load_yaml("a: on\nb: 010\nc: 2026-11-21\nd: 22:22\ne: 1_000\nf: 443\ng: true\nh: ~\n")
    assert loaded == {"a": "on", "b": "010", "c": "2026-11-21", "d": "22:22", "e": "1_000", "f": 443, "g": True, "h": None}


def test_without_pyyaml_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_yaml(name: str, *rest: Any, **more: Any) -> Any:
        if name == "yaml":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", no_yaml)
    with pytest.raises(policy.MissingYaml, match="python3-yaml"):
        policy.parse_text(text(HEAD_0_0_40, BASE))


def test_rows_of_policy_list() -> None:
    rows = policy.parse_list(
        b"VERSION  HASH           STATUS       CREATED                  ERROR\n"
        b"3        333333333333   Failed       1787313100000            policy validation failed: endpoint inges...\n"
        b"2        222222222222   Loaded       1787313100000            \n"
    )
    assert [(row.number, row.status) for row in rows] == [(3, "Failed"), (2, "Loaded")]
    assert rows[0].error.endswith("inges...")


def test_error_boxes_become_one_line() -> None:
    said = policy.words("Error:   × code: 'Some requested entity was not found', message: \"sandbox\n  │ not found\"\n".encode())
    assert said == "Error: code: 'Some requested entity was not found', message: \"sandbox not found\""
    assert "\x1b" not in policy.words(b"\x1b[31mred\x1b[0m \x1b]0;title\x07")


def test_the_submitted_revision_is_read_through_its_colours() -> None:
    assert policy.submitted("\x1b[1m\x1b[32m✓\x1b[39m\x1b[0m Policy version 3 submitted (hash: 22)\n".encode()) == 3
    assert policy.submitted(b"Error: nothing") is None


def test_present_adds_our_entry_and_nothing_else() -> None:
    made = policy.change(BASE, RULE, present=True)
    assert made.document == with_policies(**OURS)
    assert (made.before, made.after) == (None, render.entry(RULE))


def test_present_again_is_no_change_however_the_gateway_writes_it() -> None:
    entry = render.entry(RULE)
    point = entry["endpoints"][0]
    point["rules"].reverse()
    point["ports"] = [point.pop("port")]
    point.update(allowed_ips=[], tls="", allow_encoded_slash=False, max_body_bytes=0)
    assert policy.change(with_policies(clawmetry_ingest=entry), RULE, present=True).document is None


@pytest.mark.parametrize("path", [("enforcement", "audit"), ("host", "ingest2.clawmetry.com"), ("port", 444), ("protocol", "tcp")])
def test_any_difference_is_a_change(path: tuple[str, Any]) -> None:
    entry = render.entry(RULE)
    entry["endpoints"][0][path[0]] = path[1]
    made = policy.change(with_policies(clawmetry_ingest=entry), RULE, present=True)
    assert made.document == with_policies(**OURS)


def test_absent_removes_our_entry_and_nothing_else() -> None:
    made = policy.change(with_policies(**OURS), RULE, present=False)
    assert made.document == BASE
    assert policy.change(BASE, RULE, present=False).document is None


def test_a_policy_without_network_policies_gets_them() -> None:
    made = policy.change({"version": 1}, RULE, present=True)
    assert made.document == {"version": 1, "network_policies": OURS}


@pytest.mark.parametrize("present", [True, False])
def test_an_entry_of_another_origin_under_our_key_is_left_alone(present: bool) -> None:
    foreign = {**render.entry(RULE), "name": "somebody-else"}
    with pytest.raises(policy.PolicyError, match="another origin"):
        policy.change(with_policies(clawmetry_ingest=foreign), RULE, present=present)


@pytest.mark.parametrize("more", [{"tls": "skip"}, {"allowed_ips": ["10.0.0.0/8"]}])
def test_an_entry_that_contradicts_ours_is_refused(more: dict[str, Any]) -> None:
    other = {"name": "other", "endpoints": [{"host": "ingest.clawmetry.com", "port": 443, **more}], "binaries": [{"path": "/usr/bin/curl"}]}
    with pytest.raises(policy.PolicyError, match="contradicts"):
        policy.change(with_policies(other=other), RULE, present=True)


@pytest.mark.parametrize("host", ["ingest.clawmetry.com", "*.clawmetry.com", "**"])
def test_an_entry_that_opens_the_host_for_others_is_told(host: str) -> None:
    other = {"name": "other", "endpoints": [{"host": host, "ports": [80, 443]}], "binaries": [{"path": "/**"}]}
    assert "entry other also" in policy.change(with_policies(other=other), RULE, present=True).warnings[0]


def test_an_interpreter_this_policy_lets_the_agent_write_needs_an_override() -> None:
    wide = rule.build(binary="/srv/agent/python3")
    with pytest.raises(policy.PolicyError, match="allow_wide_binary"):
        policy.change(BASE, wide, present=True)
    assert policy.change(BASE, wide, present=True, allow_wide_binary=True).document
    assert policy.change(BASE, wide, present=False).document is None


@given(st.binary(max_size=200) | st.text("[]{}:-*&!|> \n\t'\"a1", max_size=60).map(str.encode), st.booleans())
def test_whatever_is_printed_it_is_a_policy_or_a_refusal(output: bytes, framed: bool) -> None:
    output = b"Version: 2\n---\nversion: 1\n" + output if framed else output
    for parse in (policy.parse_text, policy.parse_json):
        with contextlib.suppress(policy.PolicyError):
            assert parse(output).document["version"] is not Ellipsis
    policy.parse_list(output)
    policy.submitted(output)
    assert policy.words(output).isprintable()
