# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rule: every path the daemon posts to is in it, and nothing that is wider than the daemon."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from clawmetry_sync import wire
from clawmetry_sync.egress import render, rule
from clawmetry_sync.errors import ConfigError

ENGINE = Path(wire.__file__).parent
BINARY = "/opt/clawmetry/venv/bin/python3"


def test_every_path_that_wire_names_is_in_the_rule() -> None:
    named = {value for name, value in vars(wire).items() if name.isupper() and isinstance(value, str) and value.startswith("/")}
    assert named, "wire names its paths no longer; teach this test where they are"
    assert named == set(rule.PATHS)


INGEST_PATH = re.compile(r"/(ingest|auth|v\d|api)(/[\w-]+)*")


def test_the_engine_posts_to_no_path_that_is_written_elsewhere() -> None:
    """Whoever writes an ingest path next to wire's would be stopped by the sandbox's proxy: no such text may exist."""
    found = []
    for file in ENGINE.rglob("*.py"):
        if file.name == "wire.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and INGEST_PATH.fullmatch(node.value):
                found.append((file.name, node.value))
    assert not found


def test_what_the_https_target_really_sends_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target itself, on a pool that only notes: each method and path it asks for is in the rendered rule, and no other."""
    https = pytest.importorskip("clawmetry_sync.ship.https")
    asked: list[tuple[str, str]] = []

    class Pool:
        def request(self, method: str, url: str, **_rest: Any) -> Any:
            asked.append((method, url))
            raise OSError("noted")

        def clear(self) -> None:
            pass

    url = "https://ingest.example.com:8443/base"
    target = https.HttpsTarget(url, "key", lambda envelope: b"{}")
    monkeypatch.setattr(target, "_pool", Pool())
    target.register("node", "host", "machine")
    target.heartbeat({"node_id": "node"})
    for endpoint in (wire.EVENTS, wire.SESSIONS, wire.MEMORY, wire.SNAPSHOT):
        target.deliver(endpoint, "node", "idempotency", b"x" * 40)
    endpoints = render.entry(rule.build(ingest_url=url, binary=BINARY))["endpoints"]
    assert [(point["host"], point["port"]) for point in endpoints] == [("ingest.example.com", 8443)]
    allowed = {(item["allow"]["method"], item["allow"]["path"]) for item in endpoints[0]["rules"]}
    assert {(method, address.partition(":8443")[2]) for method, address in asked} == allowed


def test_every_endpoint_the_engine_enqueues_is_one_of_the_paths() -> None:
    used = set()
    for file in ENGINE.rglob("*.py"):
        used |= {name for name in re.findall(r"\bwire\.([A-Z]+)\b", file.read_text()) if str(getattr(wire, name)).startswith("/")}
    assert {getattr(wire, name) for name in used} <= set(rule.PATHS)


@pytest.mark.parametrize(
    ("url", "host", "port", "first"),
    [
        ("https://ingest.clawmetry.com", "ingest.clawmetry.com", 443, "/auth"),
        ("https://Ingest.Example.COM/", "ingest.example.com", 443, "/auth"),
        ("https://ingest.example.com:8443", "ingest.example.com", 8443, "/auth"),
        ("https://telemetry.example.com/clawmetry/v2/", "telemetry.example.com", 443, "/clawmetry/v2/auth"),
        ("https://192.0.2.7:9443", "192.0.2.7", 9443, "/auth"),
    ],
)
def test_custom_hosts_ports_and_prefixes(url: str, host: str, port: int, first: str) -> None:
    made = rule.build(ingest_url=url, binary=BINARY)
    assert (made.host, made.port, made.paths[0], len(made.paths)) == (host, port, first, len(rule.PATHS))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///var/lib/clawmetry/archive", "no egress rule is needed"),
        ("http://127.0.0.1:8080", "loopback"),
        ("https://localhost", "loopback"),
        ("https://127.0.0.1", "loopback"),
        ("https://*.clawmetry.com", "exact DNS name"),
        ("https://[2001:db8::1]", "exact DNS name"),
        ("https://ingest.example.com/**", "cannot state exactly"),
        ("https://ingest.example.com/a%2fb", "cannot state exactly"),
        ("https://user:secret@ingest.example.com", "user name"),
        ("ftp://ingest.example.com", "https://host"),
    ],
)
def test_a_url_no_exact_rule_can_state_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)) as caught:
        rule.build(ingest_url=url, binary=BINARY)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "Clawmetry", "a_b", "-a", "a-", "x" * 64, "_provider_x", "a\nb"])
def test_a_name_nemoclaw_would_not_take_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        rule.build(binary=BINARY, name=name)


def test_the_name_of_a_built_in_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="built-in"):
        rule.build(binary=BINARY, name="npm")


@pytest.mark.parametrize("binary", ["", "python3", "./python3", "/opt/../srv/python", "//bin/py", "/x\n", "/opt//x", "/" + "x" * 2000])
def test_a_binary_that_is_no_plain_absolute_path_is_refused(binary: str) -> None:
    with pytest.raises(ConfigError, match="absolute path"):
        rule.build(binary=binary)


@pytest.mark.parametrize(
    "binary",
    [
        "/**",
        "/usr/bin/python3*",
        "/opt/*/bin/python3",
        "/usr/bin/python3.{11,12}",
        "/opt/[ab]/python",
        "/sandbox/.venv/bin/python",
        "/tmp/python3",
        "/home/alice/python",
        "/sandbox",
    ],
)
def test_a_wildcard_or_agent_writable_interpreter_is_too_wide(binary: str) -> None:
    assert rule.too_wide(rule.check_binary(binary))


@pytest.mark.parametrize("binary", [BINARY, "/usr/bin/python3.13", "/sandboxed/python3"])
def test_a_plain_interpreter_of_roots_is_not_too_wide(binary: str) -> None:
    assert rule.too_wide(binary) is None


def test_a_directory_the_policy_lets_the_agent_write_makes_an_interpreter_too_wide() -> None:
    assert rule.too_wide("/srv/agent/bin/python3", ["/srv/agent"])
    assert rule.too_wide(BINARY, ["/"])


def test_a_shared_interpreter_is_explained_and_a_dedicated_one_is_not() -> None:
    assert "the agent's too" in str(rule.caution("/usr/bin/python3.13"))
    assert "/sandbox/.uv" in str(rule.caution("/usr/local/bin/python3"))
    assert rule.caution(BINARY) is None
