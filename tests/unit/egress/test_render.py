# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The three renderings, whole, and against what NemoClaw and OpenShell accept; and the YAML writer."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from clawmetry_sync.egress import policy, render, rule

RULE = rule.build(binary="/opt/clawmetry/venv/bin/python3")
ENTRY = """\
  clawmetry_ingest:
    name: clawmetry-ingest
    endpoints:
      - host: ingest.clawmetry.com
        port: 443
        protocol: rest
        enforcement: enforce
        rules:
          - allow:
              method: POST
              path: /auth
          - allow:
              method: POST
              path: /ingest/events
          - allow:
              method: POST
              path: /ingest/sessions
          - allow:
              method: POST
              path: /ingest/memory
          - allow:
              method: POST
              path: /ingest/system-snapshot
          - allow:
              method: POST
              path: /ingest/heartbeat
    binaries:
      - path: /opt/clawmetry/venv/bin/python3
"""


def test_the_generic_snippet() -> None:
    assert render.generic(RULE) == "network:\n  egress:\n    - host: ingest.clawmetry.com\n      port: 443\n      protocol: https\n"


def test_the_openshell_block() -> None:
    assert render.block(RULE) == "network_policies:\n" + ENTRY


def test_the_nemoclaw_preset() -> None:
    head = 'preset:\n  name: clawmetry-ingest\n  description: "ClawMetry ingest, for a sync daemon inside the sandbox"\n'
    assert render.preset(RULE) == head + "network_policies:\n" + ENTRY


@pytest.mark.parametrize("url", ["https://ingest.clawmetry.com", "https://10.0.0.7:8443/a/b", "https://null.example:1"])
def test_nemoclaw_would_take_the_preset(url: str) -> None:
    text = render.preset(rule.build(ingest_url=url, binary="/opt/on/python3", name="on"))
    document = yaml.safe_load(text)
    assert render.preset_problems(text, document) == []
    assert document["network_policies"]["on"]["name"] == "on"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"preset": {"name": "npm", "description": "x"}}, "built-in"),
        ({"preset": {"name": "A_b", "description": "x"}}, "lower-case"),
        ({"preset": {"name": "a"}}, "description"),
        ({"more": 1}, "exactly"),
        ({"network_policies": {"_provider_x": render.entry(RULE)}}, "gateway's own"),
        ({"network_policies": {"x": {**render.entry(RULE), "binaries": []}}}, "binaries"),
        ({"network_policies": {"x": {**render.entry(RULE), "binaries": [{"path": "python3"}]}}}, "absolute"),
    ],
)
def test_what_nemoclaw_refuses_is_seen(change: dict[str, Any], problem: str) -> None:
    document = {**yaml.safe_load(render.preset(RULE)), **change}
    assert problem in "; ".join(render.preset_problems(render.yaml(document), document))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"allowed_ips": ["10.0.0.1"]}, "allowed_ips"),
        ({"port": 0}, "port"),
        ({"port": True}, "port"),
        ({"enforcement": "audit"}, "audited"),
        ({"access": "full"}, "either"),
        ({"rules": [{"allow": {"method": "FETCH", "path": "/x"}}]}, "method"),
    ],
)
def test_an_endpoint_nemoclaw_refuses_is_seen(change: dict[str, Any], problem: str) -> None:
    document = yaml.safe_load(render.preset(RULE))
    document["network_policies"]["clawmetry_ingest"]["endpoints"][0].update(change)
    assert problem in "; ".join(render.preset_problems(render.yaml(document), document))


def test_a_preset_of_more_than_ten_million_bytes_is_seen() -> None:
    text = render.preset(RULE)
    assert "larger" in render.preset_problems(text + "#" * render.MAX_PRESET_BYTES, yaml.safe_load(text))[0]


def test_no_wide_word_is_ever_rendered() -> None:
    for text in render.all_of(RULE).values():
        for word in ("*", "access", "audit", "tls", "allowed_ips", "GET"):
            assert word not in text


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12) | st.sampled_from(
    ["on", "No", "010", "1_0", "~", "", "2026-11-21", "a: b", "- x", "#x"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_what_is_written_is_read_back_the_same(value: Any) -> None:
    assert yaml.safe_load(render.yaml(value)) == value
    assert policy.load_yaml(render.yaml(value)) == value
