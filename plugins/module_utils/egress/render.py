# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The rule as text: the generic snippet, a NemoClaw preset, an OpenShell block; and a small YAML writer. Pure.

The writer knows mappings, lists, texts, whole numbers and booleans, which is all a policy is made of,
so that rendering needs no third-party package. Source of the shapes: reference/openshell.md §5,
nemoclaw.md §5 (schemas/policy-preset.schema.json and src/lib/policy/index.ts of July 2026).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Mapping

from .rule import BUILTIN_PRESETS, METHOD, Rule

MAX_PRESET_BYTES = 10_000_000
DESCRIPTION = "ClawMetry ingest, for a sync daemon inside the sandbox"
_PLAIN = re.compile(r"[A-Za-z/_][A-Za-z0-9/_.-]*")
_NOT_PLAIN = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))
_PRESET_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_COLUMN_0 = re.compile(r"^network_policies:", re.MULTILINE)


def yaml(value: Any) -> str:
    """Return VALUE as YAML in block style, ASCII only: whatever else a text holds is escaped in double quotes."""
    if not isinstance(value, (dict, list)) or not value:
        return _scalar(value) + "\n"
    return "\n".join(_lines(value, "")) + "\n"


def _lines(value: Any, pad: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, (dict, list)) and item:
                yield pad + _scalar(key) + ":"
                yield from _lines(item, pad + "  ")
            else:
                yield pad + _scalar(key) + ": " + _scalar(item)
        return
    for item in value:
        if isinstance(item, (dict, list)) and item:
            first, *rest = _lines(item, pad + "  ")
            yield pad + "- " + first[len(pad) + 2 :]
            yield from rest
        else:
            yield pad + "- " + _scalar(item)


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, list):
        return "[]"
    if not isinstance(value, str):
        raise ValueError("a policy holds no %s" % type(value).__name__)
    if _PLAIN.fullmatch(value) and value.lower() not in _NOT_PLAIN:
        return value
    return '"' + "".join(map(_escaped, value)) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    code = ord(char)
    if 0x20 <= code < 0x7F:
        return char
    return "\\U%08x" % code if code > 0xFFFF else "\\u%04x" % code


def entry(rule: Rule) -> dict[str, Any]:
    """Return the rule as OpenShell and NemoClaw both write an entry of ``network_policies``.

    ``enforcement`` is written out: without it OpenShell audits only. No ``tls``: the proxy terminates by
    itself, and 0.1 rejects the old words for it. No ``access``: it excludes ``rules``.
    """
    return {
        "name": rule.name,
        "endpoints": [
            {
                "host": rule.host,
                "port": rule.port,
                "protocol": "rest",
                "enforcement": "enforce",
                "rules": [{"allow": {"method": METHOD, "path": path}} for path in rule.paths],
            }
        ],
        "binaries": [{"path": rule.binary}],
    }


def generic(rule: Rule) -> str:
    """Return the snippet for documentation and other wrappers."""
    return yaml({"network": {"egress": [{"host": rule.host, "port": rule.port, "protocol": "https"}]}})


def preset(rule: Rule) -> str:
    """Return a NemoClaw preset, for ``nemoclaw <name> policy-add --from-file FILE --yes``."""
    return yaml({"preset": {"name": rule.name, "description": DESCRIPTION}, "network_policies": {rule.key: entry(rule)}})


def block(rule: Rule) -> str:
    """Return an OpenShell block, to be merged into a policy: ``openshell policy set`` replaces all of it."""
    return yaml({"network_policies": {rule.key: entry(rule)}})


# File names of the three, in the directory of the operator's choice.
FILES = {"generic": "clawmetry-egress.yml", "nemoclaw": "clawmetry-nemoclaw-preset.yaml", "openshell": "clawmetry-openshell-policy.yaml"}


def all_of(rule: Rule) -> dict[str, str]:
    """Return the three renderings under the keys of FILES."""
    return {"generic": generic(rule), "nemoclaw": preset(rule), "openshell": block(rule)}


def preset_problems(text: str, document: Mapping[str, Any]) -> list[str]:
    """Return what NemoClaw would refuse in a preset; TEXT is the file, DOCUMENT what it parses to.

    These are the checks of its ``policy-add --from-file`` and of the schema its own presets obey.
    """
    problems = []
    if len(text.encode()) > MAX_PRESET_BYTES:
        problems.append("larger than %d bytes" % MAX_PRESET_BYTES)
    if set(document) != {"preset", "network_policies"} or not _COLUMN_0.search(text):
        problems.append("needs exactly preset and network_policies, the latter at the start of a line")
        return problems
    head, policies = document["preset"], document["network_policies"]
    name = str(head.get("name", ""))
    if set(head) != {"name", "description"} or not _PRESET_NAME.fullmatch(name):
        problems.append("preset needs a name of lower-case letters, digits and hyphens, and a description")
    if name in BUILTIN_PRESETS:
        problems.append("the name %s collides with a built-in preset" % name)
    for key, item in policies.items():
        if key.startswith("_provider_"):
            problems.append("%s is a name of the gateway's own" % key)
        if set(item) != {"name", "endpoints", "binaries"} or not item["endpoints"] or not item["binaries"]:
            problems.append("%s needs a name, endpoints and binaries" % key)
            continue
        if not all(set(binary) == {"path"} and binary["path"].startswith("/") for binary in item["binaries"]):
            problems.append("%s: a binary is an absolute path" % key)
        for endpoint in item["endpoints"]:
            problems += ["%s: %s" % (key, problem) for problem in _endpoint_problems(endpoint)]
    return problems


_ENDPOINT_KEYS = frozenset(["host", "port", "path", "protocol", "enforcement", "tls", "access", "rules", "deny_rules"])
_METHODS = frozenset(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "*"])


def _endpoint_problems(endpoint: Mapping[str, Any]) -> Iterator[str]:
    for unknown in sorted(set(endpoint) - _ENDPOINT_KEYS):
        yield "%s is not for a custom preset" % unknown
    port = endpoint.get("port")
    if not endpoint.get("host") or not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        yield "an endpoint has a host and a port"
    if endpoint.get("enforcement") != "enforce":
        yield "enforcement is not written out: it would only be audited"
    if ("rules" in endpoint) == ("access" in endpoint):
        yield "either rules or access"
    for item in endpoint.get("rules", ()):
        allow = item.get("allow", {})
        if set(item) != {"allow"} or allow.get("method") not in _METHODS or not str(allow.get("path", "")).startswith("/"):
            yield "a rule allows a method on a path"
