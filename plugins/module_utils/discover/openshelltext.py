# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""What the ``openshell`` CLI prints, as data: tables with ANSI colours, JSON, YAML behind a header, and errors.

Pure: bytes in, frozen dataclasses out; never raises on damaged text. Everything in it was chosen by
a gateway or a sandbox, so names are cleaned and sizes are capped. Which version prints what:
reference/openshell.md §3 (0.0.26, 0.0.40, 0.0.72 seen; 0.0.111 and 0.1.x read).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Optional

from ..model import Inference
from .names import clean

MAX_ROWS = 10_000
MAX_KEYS = 200
MAX_LINE = 1000  # a longer one is no row or field, and patterns are not tried on it
_ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_FRAME = re.compile("[\u2500-\u257f\u25b6\u00d7\\s]+")
# Names cannot be told from columns by width: from the right, everything else has a fixed form.
_ROW = re.compile(
    r"(?P<name>\S.*?)\s{2,}(?:(?P<namespace>\S+)\s{2,})?(?P<created>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\s{2,}(?P<phase>[A-Za-z]+)\s*"
)
_FIELD = re.compile(r"\s{0,4}([A-Z][A-Za-z ]{0,30}):\s*(.*)")
_KEY = re.compile(r""" *(["']?)([^"':#\s-][^"':#]{0,200}?)\1\s*:(?:\s.*)?""")
_POLICY_ROOT = re.compile(r"(?m)^(?:version|filesystem_policy|landlock|process|network_middlewares)\s*:")
_STATUS_CODE = re.compile(r"status: ([A-Za-z]+),|code: '([^']{1,80})'")
# tonic's names of the gRPC codes: the first until 0.0.6x, the sentences from 0.0.7x on.
_CODES = {
    "Unauthenticated": "unauthenticated",
    "The request does not have valid authentication credentials": "unauthenticated",
    "PermissionDenied": "denied",
    "The caller does not have permission to execute the specified operation": "denied",
    "NotFound": "not_found",
    "Some requested entity was not found": "not_found",
    "Unavailable": "unavailable",
    "The service is currently unavailable": "unavailable",
    "Unimplemented": "unsupported",
    "Operation is not implemented or not supported": "unsupported",
    "DeadlineExceeded": "unavailable",
    "Deadline expired before operation could complete": "unavailable",
}
_UNREACHABLE = ("transport error", "tcp connect error", "connection refused", "connection error", "client error (", "dns error")


@dataclass(frozen=True)
class Listed:
    """One row of ``sandbox list`` or ``sandbox get``. ``id`` None: the text table does not show it."""

    name: str
    phase: Optional[str] = None
    id: Optional[str] = None
    workspace: Optional[str] = None
    policy_version: Optional[int] = None
    exact: bool = True  # False: the gateway's name holds what we do not show


@dataclass(frozen=True)
class Policy:
    """A sandbox's policy: its keys below network_policies, None when the text does not tell."""

    networks: Optional[tuple[str, ...]] = None
    version: Optional[int] = None
    status: Optional[str] = None
    source: Optional[str] = None

    @property
    def in_force(self) -> Optional[bool]:
        """Is a network policy in force? True as soon as one was loaded: what it does not name is denied."""
        if self.networks is None or self.status is None:
            return None
        return True if self.status.lower() in ("loaded", "effective") else None


@dataclass(frozen=True)
class Gateway:
    """One registration of ``gateway list``."""

    name: str
    endpoint: Optional[str] = None
    active: bool = False


@dataclass(frozen=True)
class Status:
    """What ``status`` says. ``connected`` None: it said nothing about it."""

    gateway: Optional[str] = None
    connected: Optional[bool] = None
    version: Optional[str] = None


def plain(output: bytes) -> str:
    """Return OUTPUT without ANSI sequences, which the CLI prints even into a pipe and with NO_COLOR=1."""
    return _ANSI.sub("", output.decode("utf-8", "replace"))


def parse_list(output: bytes) -> Optional[tuple[Listed, ...]]:
    """Return the rows of ``sandbox list``, JSON or table; None when it is neither. ``No sandboxes found.`` gives ().

    Samples: ``my-assistant  openshell  2026-08-21 11:50:00  Ready`` under NAME NAMESPACE CREATED PHASE (no
    NAMESPACE from 0.0.37), ``[{"id": "3f1c…", "name": "my-assistant", "phase": "Ready", "workspace": "default"}]``.
    """
    if output.lstrip()[:1] == b"[":
        listed = _json(output)
        if not isinstance(listed, list):
            return None
        return tuple(row for row in map(_row, listed[:MAX_ROWS]) if row is not None)
    lines = [line for line in plain(output).splitlines() if line.strip()]
    if not lines:
        return None
    header = lines[0].split()
    if header[:1] != ["NAME"] or header[-1] != "PHASE":
        return () if lines[0].strip().lower().startswith("no sandboxes found") else None
    rows = []
    for line in lines[1 : MAX_ROWS + 1]:
        match = _ROW.fullmatch(line[:MAX_LINE])
        name = clean(match.group("name")) if match else None
        if match and name:
            rows.append(Listed(name, clean(match.group("phase"), 32)))
    return tuple(rows)


def parse_get(output: bytes) -> Optional[Listed]:
    """Return what ``sandbox get`` says: JSON (0.0.92 on), or lines such as ``  Id: 3f1c…`` before the policy."""
    if output.lstrip()[:1] == b"{":
        return _row(_json(output))
    fields = _fields(plain(output).partition("\nPolicy:")[0])
    name = clean(fields.get("Name"))
    return Listed(name, clean(fields.get("Phase"), 32), clean(fields.get("Id")), clean(fields.get("Workspace"))) if name else None


def parse_policy(output: bytes) -> Policy:
    """Return what ``policy get`` says: JSON (0.0.47 on), or header lines, ``---`` and YAML with --base or --full."""
    if output.lstrip()[:1] == b"{":
        answer = _json(output)
        if not isinstance(answer, dict):
            return Policy()
        policy = answer.get("policy")
        networks = policy.get("network_policies", {}) if isinstance(policy, dict) else None
        keys = _names(networks) if isinstance(networks, dict) else None
        return Policy(keys, _whole(answer.get("version")), clean(answer.get("status"), 32), clean(answer.get("policy_source"), 32))
    header, separator, document = plain(output).partition("\n---")
    fields = _fields(header)
    number = fields.get("Version", "")
    return Policy(
        network_keys(document) if separator else None,
        int(number) if number.isascii() and number.isdigit() and len(number) < 12 else None,
        clean(fields.get("Status"), 32),
        clean(fields.get("Source"), 32),
    )


def network_keys(document: str) -> Optional[tuple[str, ...]]:
    """Return the keys below ``network_policies:`` of a policy in YAML's block style, None when it is not to be told.

    No YAML parser, which read-only facts may not need: the CLI writes block style only. A policy without
    the key, or with ``{}``, has none.
    """
    lines = document.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("network_policies:")]
    if not starts:
        return () if _POLICY_ROOT.search(document) else None
    rest = lines[starts[0]][len("network_policies:") :].partition("#")[0].strip()
    if rest:
        return () if rest in ("{}", "null", "~") else None
    found: list[str] = []
    depth = 0
    for line in lines[starts[0] + 1 :]:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not line.startswith(" "):
            break
        match = _KEY.fullmatch(line)
        indent = len(line) - len(line.lstrip(" "))
        depth = depth or indent
        if indent < depth or (indent == depth and match is None):
            return None
        name = clean(match.group(2), 100) if match else None
        if indent == depth and name:
            found.append(name)
    return tuple(dict.fromkeys(found))[:MAX_KEYS]


def parse_inference(output: bytes) -> Optional[Inference]:
    """Return the gateway's inference route; an empty one when it is not configured, None when nothing is said.

    ``Gateway inference:`` (0.0.26, 0.0.72) or ``Inference:`` (0.0.111) with Provider and Model; then
    ``System inference:``, which is another route.
    """
    text = plain(output)
    title = re.search(r"(?m)^\s*(?:Gateway i|I)nference:\s*$", text)
    if title is None:
        return None
    section = re.split(r"(?m)^\s*System inference:", text[title.end() :])[0]
    fields = _fields(section)
    if "Provider" in fields or "Model" in fields:
        return Inference(clean(fields.get("Provider")), clean(fields.get("Model")))
    return Inference() if "not configured" in section.lower() else None


def parse_gateways(output: bytes) -> Optional[tuple[Gateway, ...]]:
    """Return the registrations of ``gateway list``: JSON from 0.0.47, a table from 0.0.37; ``*`` marks the active one."""
    if output.lstrip()[:1] == b"[":
        listed = _json(output)
        if not isinstance(listed, list):
            return None
        rows = [row for row in listed[:MAX_KEYS] if isinstance(row, dict)]
        named = [(clean(row.get("name")), row) for row in rows]
        return tuple(Gateway(name, clean(row.get("endpoint")), row.get("active") is True) for name, row in named if name)
    lines = [line for line in plain(output).splitlines() if line.strip()]
    if not lines or lines[0].split()[:2] != ["NAME", "ENDPOINT"]:
        return None
    found = []
    for line in lines[1 : MAX_KEYS + 1]:
        parts = re.split(r"\s{2,}", line.strip().lstrip("* ").strip())
        name = clean(parts[0])
        if name and len(parts) > 1:
            found.append(Gateway(name, clean(parts[1]), line.lstrip().startswith("*")))
    return tuple(found)


def parse_status(output: bytes) -> Status:
    """Return what ``status`` says: ``Gateway: fake``, ``Status: Connected``, ``Version: 0.0.111`` (the server's)."""
    fields = _fields(plain(output))
    said = fields.get("Status", "").lower()
    connected = True if said == "connected" else False if said.startswith(("disconnected", "no gateway")) else None
    return Status(clean(fields.get("Gateway")), connected, clean(fields.get("Version"), 64))


def error_kind(rc: int, stderr: bytes) -> str:
    """Return why the CLI failed: usage, no_gateway, unauthenticated, denied, not_found, unavailable, unsupported, unreachable or other.

    Errors are boxed and wrapped at 80 columns, so the frame goes first. The gRPC code decides, not the message beside
    it, which a gateway may fill with anything.
    """
    if rc == 2:
        return "usage"
    text = _FRAME.sub(" ", plain(stderr))
    code = _STATUS_CODE.search(text)
    if code is not None:
        return _CODES.get(code.group(1) or code.group(2), "other")
    lowered = text.lower()
    if "no active gateway" in lowered or "no gateway configured" in lowered:
        return "no_gateway"
    return "unreachable" if any(mark in lowered for mark in _UNREACHABLE) else "other"


def _json(output: bytes) -> Any:
    try:
        return json.loads(output)
    except (ValueError, RecursionError):
        return None


def _row(item: object) -> Optional[Listed]:
    if not isinstance(item, dict):
        return None
    name = clean(item.get("name"))
    if name is None:
        return None
    version = _whole(item.get("current_policy_version"))
    exact = name == item.get("name")
    return Listed(name, clean(item.get("phase"), 32), clean(item.get("id")), clean(item.get("workspace")), version, exact)


def _whole(value: object) -> Optional[int]:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _names(values: dict[Any, Any]) -> tuple[str, ...]:
    return tuple(name for name in (clean(key, 100) for key in list(values)[:MAX_KEYS]) if name is not None)


def _fields(text: str) -> dict[str, str]:
    """Return the ``Key: value`` lines; the first of a kind wins."""
    found: dict[str, str] = {}
    for line in text.splitlines()[:200]:
        match = _FIELD.fullmatch(line[:MAX_LINE].rstrip())
        if match is not None:
            found.setdefault(match.group(1), match.group(2).strip())
    return found
