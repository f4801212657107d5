# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Asks NemoClaw's own CLI, only when a person asked for it with ``deep``, and reads what its eras print.

``nemoclaw <name> status`` can start a gateway and a container, and even ``list`` can select one, so
nothing here runs in a normal pass: the registry file is the source, this is a second opinion. The
parsers are pure. Source: reference/nemoclaw.md §3 (March 2026 prints text even with --json and
always ends with rc 0; July prints schemaVersion 1; later versions drop and add keys within it).
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass, replace
from typing import Callable, Mapping, Optional, Sequence

from .. import run
from ..errors import CommandError, shown
from ..model import Inference, Sandbox
from . import nemoclaw
from .accounts import Account, below
from .binaries import Lookups, environment
from .merging import status_of
from .names import clean
from .openshelltext import MAX_LINE, plain

CALL_TIMEOUT_S = 20.0
BUDGET_S = 45.0
MAX_ASKED = 20
MAX_ROWS = 1000
# A sandbox may be called like a verb: "nemoclaw list status" would list.
VERBS = frozenset(
    (
        "agents", "backup-all", "config", "connect", "credentials", "debug", "deploy", "doctor", "gc", "help", "inference", "internal",
        "list", "logs", "onboard", "policy", "recover", "resources", "sandbox", "sessions", "setup", "setup-spark", "share", "start",
        "status", "stop", "term", "tunnel", "uninstall", "update", "upgrade-sandboxes", "use", "version",
    )
)
_NAMED = re.compile(r" {4}(?P<name>\S[^*(]{0,252}?)(?P<default> \*)?(?: \((?P<model>[^()]{1,300})\))?(?: :\d{1,5})?\s*")
_PAIR = re.compile(r"(model|provider|policies|agent): (.*?)(?=\s{2,}|$)")
_FIELD = re.compile(r"\s{2,6}([A-Z][A-Za-z ]{1,20}):\s+(.*?)\s*")
_OPENSHELL = re.compile(r"(\d[0-9A-Za-z.+-]{0,40})(?: \(([a-z0-9-]{1,32})\))?")


@dataclass(frozen=True)
class Seen:
    """One sandbox as the CLI tells it; None is what it does not tell or cannot know."""

    name: str
    inference: Inference = Inference()
    policies: Optional[tuple[str, ...]] = None
    agent: Optional[str] = None
    phase: Optional[str] = None
    default: bool = False
    driver: Optional[str] = None
    openshell_version: Optional[str] = None
    gateway_state: Optional[str] = None
    found: Optional[bool] = None
    source: str = ""  # the verb that told it
    home: str = ""  # of the user whose CLI it was


@dataclass(frozen=True)
class Listing:
    """What ``list`` or ``status`` tells of all sandboxes. ``gateway_healthy`` None: not told."""

    sandboxes: tuple[Seen, ...] = ()
    gateway_healthy: Optional[bool] = None
    gateway_state: Optional[str] = None


def parse_listing(output: bytes) -> Optional[Listing]:
    """Return what ``list --json`` or ``status --json`` printed, JSON or March's text; None when it is neither.

    ``    my-assistant *`` and below it ``      model: m  provider: p  CPU  policies: npm, pypi`` (list), or
    ``    my-assistant * (m)`` (status).
    """
    document = _document(output)
    if document is not None:
        listed = document.get("sandboxes")
        if not isinstance(listed, list):
            return None
        rows = tuple(row for row in map(_seen, listed[:MAX_ROWS]) if row is not None)
        health = document.get("gatewayHealth")
        health = health if isinstance(health, dict) else {}
        healthy = health.get("healthy")
        return Listing(rows, healthy if isinstance(healthy, bool) else None, clean(health.get("state"), 64))
    lines = [line[:MAX_LINE] for line in plain(output).splitlines()]
    starts = [number for number, line in enumerate(lines) if line.strip() == "Sandboxes:"]
    if not starts:
        return None
    found: list[Seen] = []
    for line in lines[starts[0] + 1 : starts[0] + 1 + 4 * MAX_ROWS]:
        if line.startswith("      "):
            if found:
                found[-1] = _with_pairs(found[-1], dict(_PAIR.findall(line)))
            continue
        match = _NAMED.fullmatch(line)
        if match is None:
            if found:
                break
            continue
        name = clean(match.group("name"))
        if name:
            found.append(Seen(name, Inference(None, _known(match.group("model"))), default=bool(match.group("default"))))
    return Listing(tuple(found))


def parse_one(output: bytes, name: str) -> Optional[Seen]:
    """Return what ``<name> status --json`` printed, JSON or text; None when it says nothing of NAME.

    Text: ``    Model:    m``, ``    Policies: npm, pypi``, then OpenShell's ``  Phase: Ready``; July adds
    ``    OpenShell: 0.0.72 (docker)``. Lines are the first of their kind.
    """
    document = _document(output)
    if document is not None:
        seen = _seen(document)
        return seen if seen is not None and seen.name == name else None
    fields: dict[str, str] = {}
    for line in plain(output).splitlines()[:400]:
        match = _FIELD.fullmatch(line[:MAX_LINE])
        if match is not None:
            fields.setdefault(match.group(1), match.group(2))
    if fields.get("Sandbox") != name:
        return None
    version = _OPENSHELL.fullmatch(fields.get("OpenShell", ""))
    return Seen(
        name,
        Inference(_known(fields.get("Provider")), _known(fields.get("Model"))),
        _policies(fields.get("Policies")),
        phase=_known(fields.get("Phase")),
        driver=version.group(2) if version else None,
        openshell_version=version.group(1) if version else None,
    )


class Deep:
    """Asks each user's NemoClaw once: the list, the state, then each registered sandbox, within BUDGET_S in all."""

    def __init__(self, lookups: Lookups, runner: run.Runner, *, euid: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._lookups = lookups
        self._runner = runner
        self._euid = euid
        self._clock = clock
        self._deadline = 0.0

    def ask(self, accounts: Sequence[Account], registries: Sequence[nemoclaw.Found]) -> tuple[list[Seen], list[str]]:
        """Return what the CLIs of users with a registry told, and warnings; the newest word on a sandbox comes last."""
        self._deadline = self._clock() + BUDGET_S
        seen: list[Seen] = []
        warnings: list[str] = []
        for account in accounts:
            # Without a registry the CLI would make a ~/.nemoclaw, and there is nothing to ask about.
            own = [found for found in registries if found.registry and found.path.startswith(account.home + "/.nemoclaw/")]
            if not own:
                continue
            path, why = self._program(account)
            if path is None:
                warnings.append("nemoclaw of %s not asked: %s" % (shown(account.name or account.home), why))
                continue
            names = [entry.name for found in own if found.registry for entry in found.registry.entries]
            try:
                self._of(account, path, names[:MAX_ASKED], seen, warnings)
            except CommandError as exc:
                warnings.append("nemoclaw of %s: %s" % (shown(account.name or account.home), exc.cause or exc.what))
        return seen, warnings

    def _program(self, account: Account) -> tuple[Optional[str], str]:
        found = next(filter(None, (self._lookups.binary_for(name, account) for name in nemoclaw.BINARIES[:1])), None)
        if found is None:
            return None, "no binary"
        if account.uid is None or self._euid not in (0, account.uid) or (account.uid != self._euid and account.gid is None):
            return None, "it would not run as its owner"
        real = below(self._lookups.root, found.path)
        if not self._lookups.trusted(real, account.uid):
            return None, "others may write %s" % shown(found.path)
        return real, ""

    def _of(self, account: Account, path: str, names: Sequence[str], seen: list[Seen], warnings: list[str]) -> None:
        for words in (["list", "--json"], ["status", "--json"]):
            listing = parse_listing(self._run(account, path, words))
            if listing is None:
                warnings.append("nemoclaw %s of %s printed no list" % (words[0], shown(account.name or account.home)))
                continue
            source = "nemoclaw " + words[0]
            state = listing.gateway_state
            seen += [replace(row, source=source, home=account.home, gateway_state=row.gateway_state or state) for row in listing.sandboxes]
        for name in names:
            if name in VERBS:
                warnings.append("sandbox %s is called like a verb of nemoclaw, so its status is not asked" % name)
                continue
            one = parse_one(self._run(account, path, [name, "status", "--json"]), name)
            if one is not None:
                seen.append(replace(one, source="nemoclaw %s status" % name, home=account.home))

    def _run(self, account: Account, path: str, words: Sequence[str]) -> bytes:
        """Return what a call printed, whatever its rc: July ends with 1 for a sandbox that is not well."""
        left = self._deadline - self._clock()
        if left < 0.1:
            raise CommandError("not asked", cause="no time left")
        real = os.path.realpath(path)
        options: dict[str, object] = {"timeout_s": min(CALL_TIMEOUT_S, left), "env": environment(account, real, os.path.dirname(path))}
        if account.uid != self._euid:
            options.update(user=account.uid, group=account.gid)
        answer: run.Result = self._runner([real, *words], **options)
        return answer.stdout


def apply(boxes: Sequence[Sandbox], told: Sequence[Seen]) -> list[Sandbox]:
    """Return BOXES with what the CLI told of those its user registered; what they know already stays, and differences are said."""
    result = []
    for box in boxes:
        for seen in told:
            if seen.name == box.name and any(text.startswith("registry %s/.nemoclaw/" % seen.home) for text in box.evidence):
                box = _told(box, seen)
        result.append(box)
    return result


def _told(box: Sandbox, seen: Seen) -> Sandbox:
    words = ["phase " + seen.phase if seen.phase else "", "gateway " + seen.gateway_state if seen.gateway_state else ""]
    known = box.inference
    inference = Inference(known.provider or seen.inference.provider, known.model or seen.inference.model)
    if seen.inference != Inference() and inference != seen.inference:
        words.append("provider %s, model %s" % (seen.inference.provider, seen.inference.model))
    said = status_of(seen.phase)
    policies = box.security.policies
    text = ", ".join(word for word in words if word)
    evidence = "%s: %s" % (seen.source, text) if text else seen.source
    return replace(
        box,
        status=box.status or said,
        phase_source="nemoclaw" if box.status is None and said else box.phase_source,
        inference=inference,
        security=replace(box.security, policies=seen.policies if policies is None else policies),
        driver=box.driver or seen.driver,
        agent=box.agent or seen.agent,
        evidence=(*box.evidence, evidence) if evidence not in box.evidence else box.evidence,
    )


def _document(output: bytes) -> Optional[Mapping[str, object]]:
    """Return the JSON object in OUTPUT, after whatever Node warned of before it; None when there is none."""
    start = 0 if output.startswith(b"{") else output.find(b"\n{") + 1
    if output[start : start + 1] != b"{":
        return None
    try:
        document = json.loads(output[start:])
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _seen(item: object) -> Optional[Seen]:
    name = clean(item.get("name")) if isinstance(item, dict) else None
    if not isinstance(item, dict) or name is None:
        return None
    listed = item.get("policies")
    found = item.get("found")
    return Seen(
        name,
        Inference(_known(item.get("provider")), _known(item.get("model"))),
        tuple(text for text in (clean(one, 100) for one in listed[:200]) if text) if isinstance(listed, list) else None,
        # Null is OpenClaw in July; rows recovered from the gateway say "unknown".
        (_known(item.get("agent")) if item.get("agent") is not None else "openclaw") if "agent" in item else None,
        _known(item.get("livePhase") or item.get("phase")),
        item.get("isDefault") is True,
        _known(item.get("openshellDriver")),
        _known(item.get("openshellVersion")),
        clean(item.get("gatewayState"), 64),
        found if isinstance(found, bool) else None,
    )


def _with_pairs(seen: Seen, pairs: Mapping[str, str]) -> Seen:
    return replace(
        seen,
        inference=Inference(_known(pairs.get("provider")) or seen.inference.provider, _known(pairs.get("model")) or seen.inference.model),
        policies=_policies(pairs["policies"]) if "policies" in pairs else seen.policies,
        agent=_known(pairs.get("agent")) or seen.agent,
    )


def _known(value: object) -> Optional[str]:
    """Return a value that says something: not "unknown", and not what the CLI's redactor left."""
    found = clean(value)
    return None if found is None or found.lower() in ("unknown", "none", "<redacted>") else found


def _policies(value: Optional[str]) -> Optional[tuple[str, ...]]:
    if value is None:
        return None
    return () if value == "none" else tuple(text for text in (clean(one, 100) for one in value.split(",")[:200]) if text)
