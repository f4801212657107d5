# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""A sandbox's policy as OpenShell prints it, and the change that adds, updates or removes our rule. Pure.

Everything else in the policy is kept as it was read; what the gateway composed itself (``_provider_*``)
is never part of what is written. Source: reference/openshell.md §3 and §5 (0.0.40, 0.0.72 as captured).
"""

from __future__ import annotations

import copy
import fnmatch
import json
import re
from dataclasses import dataclass
from typing import Any, Mapping, Optional

from ..errors import ClawmetryError, shown
from . import render
from .rule import Rule, too_wide

COMPOSED = "_provider_"
MAX_POLICY_BYTES = 1 << 20  # the gateway takes 256 KiB
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_BOX = re.compile(r"[│╰─▶×╭╮╯]+")
_HEADER = re.compile(r"([A-Z][A-Za-z ]*):\s*(.*)")
_SUBMITTED = re.compile(r"Policy version (\d{1,9}) submitted")
_ROW = re.compile(r"(\d{1,9})\s+(\S+)\s+(Pending|Loaded|Failed|Superseded)\b\s*(\d*)\s*(.*)")


class PolicyError(ClawmetryError):
    """A policy could not be read, or may not be changed; nothing was written."""


class MissingYaml(PolicyError):
    """This OpenShell answers in YAML only, and this Python has no PyYAML to read it with."""


@dataclass(frozen=True)
class Policy:
    """One policy of a sandbox. ``revision`` and ``active`` differ when the newest one did not load; None is unknown."""

    document: dict[str, Any]
    revision: Optional[int] = None
    active: Optional[int] = None
    status: Optional[str] = None
    is_global: Optional[bool] = None


@dataclass(frozen=True)
class Revision:
    """One line of ``policy list``: 3, "Failed", "policy validation failed: endpoint inges..."."""

    number: int
    status: str
    error: str = ""


@dataclass(frozen=True)
class Change:
    """What is to be written, None when the policy is as wanted; our entry before and after; what to tell the operator."""

    document: Optional[dict[str, Any]]
    before: Optional[dict[str, Any]]
    after: Optional[dict[str, Any]]
    warnings: tuple[str, ...] = ()


def words(output: bytes, limit: int = 400) -> str:
    """Return an error message of the CLI as one line: no ANSI, no box drawing, no wrapping.

    ``Error:   × code: 'Some requested entity was not found', message: "sandbox\\n  │ not found"``
    """
    text = _ANSI.sub("", output.decode("utf-8", "replace"))
    return shown(" ".join(_BOX.sub(" ", text).split()), limit)


def submitted(stderr: bytes) -> Optional[int]:
    """Return N of ``✓ Policy version N submitted (hash: 2222…)``, None when it does not say so."""
    match = _SUBMITTED.search(_ANSI.sub("", stderr.decode("utf-8", "replace")))
    return int(match.group(1)) if match else None


def parse_list(stdout: bytes) -> list[Revision]:
    """Return the rows of ``policy list``, newest first as it prints them."""
    text = _ANSI.sub("", stdout.decode("utf-8", "replace"))
    rows = (_ROW.fullmatch(line.strip()) for line in text.splitlines())
    return [Revision(int(row.group(1)), row.group(3), shown(row.group(5).strip())) for row in rows if row]


def parse_json(stdout: bytes) -> Policy:
    """Return what ``policy get NAME --base -o json`` says (0.0.72; with --full from 0.0.47). Raises PolicyError."""
    try:
        answer = json.loads(stdout)
    except (ValueError, RecursionError) as exc:
        raise _unreadable("it is not JSON") from exc
    if not isinstance(answer, dict):
        raise _unreadable("it is not a JSON object")
    source = answer.get("policy_source", answer.get("scope"))
    return Policy(
        document=_checked(answer.get("policy")),
        revision=_number(answer.get("version")),
        active=_number(answer.get("active_version")),
        status=str(answer["status"]).lower() if "status" in answer else None,
        is_global=source == "global" if isinstance(source, str) else None,
    )


def parse_text(stdout: bytes) -> Policy:
    """Return what ``policy get NAME --full`` says: header lines, ``---``, YAML. Raises PolicyError, MissingYaml.

    ``Version: 2 / Hash: … / Status: Loaded / Active: 2 / Created: … / Loaded: …`` (0.0.40);
    from 0.0.72 on ``Source: sandbox`` in place of the last three.
    """
    head, separator, body = stdout.decode("utf-8", "replace").replace("\r\n", "\n").partition("\n---\n")
    if not separator:
        raise _unreadable("there is no --- line before a policy")
    fields = {}
    for line in head.splitlines():
        match = _HEADER.fullmatch(_ANSI.sub("", line).strip())
        if match:
            fields[match.group(1)] = match.group(2).strip()
    source = fields.get("Source")
    return Policy(
        document=_checked(load_yaml(body)),
        revision=_number(fields.get("Version")),
        active=_number(fields.get("Active")),
        status=fields["Status"].lower() if "Status" in fields else None,
        is_global=source.lower() == "global" if source else None,
    )


def load_yaml(text: str) -> Any:
    """Return TEXT's value by the rules of YAML 1.2, as OpenShell writes it: `on`, `1_0`, `010` and dates are texts.

    Raises PolicyError, and MissingYaml when PyYAML is not there.
    """
    try:
        import yaml
    except ImportError as exc:
        next_step = "install PyYAML for the Python that runs the module (Debian: python3-yaml), or OpenShell 0.0.47 or newer"
        raise MissingYaml("cannot read the policy", cause="this OpenShell prints it as YAML only", next_step=next_step) from exc

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: dict[str, list[Any]] = {}

        def compose_node(self, parent: Any, index: Any) -> Any:
            # OpenShell writes none, and nested ones grow without bound.
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("an alias")
            return super().compose_node(parent, index)

    for tag, pattern, first in (
        ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
        ("int", r"-?(?:0|[1-9][0-9]*)", "-0123456789"),
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ):
        Loader.add_implicit_resolver("tag:yaml.org,2002:" + tag, re.compile("(?:%s)$" % pattern), list(first))
    if len(text) > MAX_POLICY_BYTES:
        raise _unreadable("it is larger than %d bytes" % MAX_POLICY_BYTES)
    try:
        loader = Loader(text)  # a SafeLoader: no tag of Python's is known to it
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise _unreadable("it is not YAML: %s" % shown(str(getattr(exc, "problem", "") or ""))) from None


def _unreadable(cause: str) -> PolicyError:
    next_step = "compare with `openshell policy get NAME --full`; nothing was written"
    return PolicyError("cannot understand the policy that OpenShell printed", cause=cause, next_step=next_step)


def _number(value: Any) -> Optional[int]:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _checked(document: Any) -> dict[str, Any]:
    """Return DOCUMENT without the gateway's own entries. Raises PolicyError when it is no policy."""
    if not isinstance(document, dict) or "version" not in document:
        raise _unreadable("there is no policy with a version in it")
    policies = document.get("network_policies")
    if policies is not None and not (isinstance(policies, dict) and all(isinstance(item, dict) for item in policies.values())):
        raise _unreadable("its network_policies are no mapping of entries")
    checked: dict[str, Any] = dict(document)
    if policies:
        kept = {key: item for key, item in policies.items() if not str(key).startswith(COMPOSED)}
        checked["network_policies"] = kept
    try:
        render.yaml(checked)
    except (ValueError, RecursionError) as exc:
        raise _unreadable("what it holds could not be written back: %s" % shown(str(exc))) from exc
    return checked


def canonical(value: Any) -> Any:
    """Return VALUE in a form in which two policies that mean the same are equal.

    The gateway may leave out what is empty or write it out (false and 0 are its wire format's "not set"), order
    lists anew, and write one port as a list of ports.
    """
    if isinstance(value, dict):
        result = {}
        for key, item in value.items():
            if key == "port" and "ports" not in value:
                key, item = "ports", [item]
            elif key == "port":
                continue
            elif key == "method" and isinstance(item, str):
                item = item.upper()
            item = canonical(item)
            if item:
                result[key] = item
        return result
    if isinstance(value, list):
        return sorted((canonical(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value


def same(one: Any, other: Any) -> bool:
    return json.dumps(canonical(one), sort_keys=True) == json.dumps(canonical(other), sort_keys=True)


def change(document: Mapping[str, Any], rule: Rule, *, present: bool, allow_wide_binary: bool = False) -> Change:
    """Return what makes RULE present in DOCUMENT (or absent from it), everything else kept. Raises PolicyError.

    Refuses when the key belongs to somebody else's entry, when another entry for the same host contradicts
    ours so that the gateway would reject the whole policy, or when the agent may write the interpreter.
    """
    policies = document.get("network_policies") or {}
    held = policies.get(rule.key)
    if held is not None and held.get("name", rule.key) not in (rule.name, rule.key):
        cause = "its name is %s" % shown(str(held.get("name")))
        raise PolicyError("the policy has an entry of another origin under our key", where=rule.key, cause=cause, next_step="set name")
    if not present:
        if held is None:
            return Change(None, None, None)
        rest = {key: item for key, item in policies.items() if key != rule.key}
        return Change({**copy.deepcopy(dict(document)), "network_policies": copy.deepcopy(rest)}, held, None)
    warnings = []
    wide = too_wide(rule.binary, _writable(document))
    if wide and not allow_wide_binary:
        raise wide_binary(wide)
    for key, item in policies.items():
        if key != rule.key:
            warnings += _overlaps(str(key), item, rule)
    wanted = render.entry(rule)
    if held is not None and same(held, wanted):
        return Change(None, held, held, tuple(warnings))
    merged = copy.deepcopy(dict(document))
    merged["network_policies"] = {**copy.deepcopy(dict(policies)), rule.key: wanted}
    return Change(merged, held, wanted, tuple(warnings))


def wide_binary(reason: str) -> PolicyError:
    next_step = "name an interpreter that only the daemon uses, in a directory of root's; or set allow_wide_binary: true and accept that"
    return PolicyError("the interpreter of the rule is too wide", cause=reason, next_step=next_step)


def _writable(document: Mapping[str, Any]) -> list[str]:
    """The directories this very policy lets the agent write."""
    part = document.get("filesystem_policy")
    listed = part.get("read_write") if isinstance(part, dict) else None
    return [path for path in listed or () if isinstance(path, str) and path.startswith("/")]


def _overlaps(key: str, item: Mapping[str, Any], rule: Rule) -> list[str]:
    found = []
    for endpoint in item.get("endpoints") or ():
        if not isinstance(endpoint, dict) or rule.port not in canonical(endpoint).get("ports", ()):
            continue
        host = str(endpoint.get("host", "")).lower()
        if host == rule.host and (endpoint.get("tls") == "skip" or endpoint.get("allowed_ips")):
            cause = "two entries for %s:%d that differ in tls or allowed_ips make the gateway reject the whole policy" % (host, rule.port)
            raise PolicyError("another entry contradicts the rule", where=shown(key), cause=cause, next_step="remove that entry first")
        if host == rule.host or fnmatch.fnmatchcase(rule.host, host):
            found.append("entry %s also lets its own programs reach %s:%d" % (shown(key), rule.host, rule.port))
    return found[:1]
