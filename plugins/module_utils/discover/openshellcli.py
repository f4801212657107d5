# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Asks each user's own ``openshell`` CLI, now and then, what no label or registry tells: phases, policies, routes.

Reads only: the verbs it may use are listed in READS and nothing else is ever started, since ``exec``
and ``connect`` write the user's default sandbox and ``gateway select`` its default gateway. Every
call names its gateway, ends after seconds (the CLI itself sets no deadline), and runs as the user
whose configuration it reads. Source: reference/openshell.md §1, §3.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Callable, Optional, Sequence

from .. import run
from ..errors import CommandError, Unreadable, shown
from ..model import CliPlace, Inference
from ..read.opener import HeldDir
from . import openshelltext as text
from .accounts import Account, below
from .binaries import REASK_S, Lookups, environment, parse_version
from .names import clean

LIST_EVERY_S = 60.0
DETAILS_EVERY_S = 600.0
RETRY_HUNG_S = 300.0
CALL_TIMEOUT_S = 4.0
# What one pass may cost discovery, however many gateways hang.
BUDGET_S = 8.0
PAGE = 1000
MAX_SANDBOXES = 10_000
MAX_GATEWAYS = 8
MAX_SEATS = 32
MAX_DETAILS = 20
MAX_METADATA = 64 * 1024
READS = (("sandbox", "list"), ("sandbox", "get"), ("policy", "get"), ("inference", "get"), ("gateway", "list"), ("status",), ("--version",))
_CONFIG = b".config/openshell"
_SNAP_CONFIG = b"snap/openshell/common/.config/openshell"
# Gateway names are one path component; sandbox names are operands. Neither may look like an option.
_GATEWAY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_OPERAND = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_PORT_AT_END = re.compile(r":(\d{1,5})/?$")


@dataclass(frozen=True)
class Registration:
    """A gateway a user's CLI knows, from its metadata.json: where it is said to be."""

    name: str
    port: Optional[int] = None
    remote: bool = False
    auth: Optional[str] = None
    active: bool = False


@dataclass(frozen=True)
class Told:
    """One sandbox as its gateway tells it. ``policy`` None: not asked or not answered."""

    listed: text.Listed
    policy: Optional[text.Policy] = None
    asked_at: float = 0.0  # of the policy, monotonic


@dataclass(frozen=True)
class Seat:
    """Whose CLI it is: the file, what it can do, and as whom it is run (``uid`` None: as ourselves)."""

    path: str  # resolved: what a link points to may change between looking and running
    environment: tuple[tuple[str, str], ...]
    version: tuple[int, ...] = ()
    uid: Optional[int] = None
    gid: Optional[int] = None

    def can(self, *version: int) -> bool:
        """Is it at least that version? One that cannot be told is taken for new: an old CLI says so with rc 2."""
        return not self.version or self.version >= version


@dataclass(frozen=True)
class Answer:
    """One gateway of one user. ``sandboxes`` None: not told yet; ``error``: why not told now (what is there is older)."""

    user: Optional[str]
    home: str
    gateway: Registration
    seat: Optional[Seat] = None  # whose CLI told it
    sandboxes: Optional[tuple[Told, ...]] = None
    status: text.Status = field(default_factory=text.Status)
    inference: Optional[Inference] = None
    error: Optional[str] = None
    detail: str = ""
    listed_at: Optional[float] = None
    detailed_at: Optional[float] = None
    not_before: float = 0.0

    @property
    def client(self) -> Optional[str]:
        """The version of the user's CLI."""
        return ".".join(map(str, self.seat.version)) or None if self.seat is not None else None

    def place_of(self, told: Told) -> Optional[CliPlace]:
        """Return how the CLI would run something in a sandbox it listed; None unless it says that this can be done now."""
        listed, seat = told.listed, self.seat
        good = listed.exact and (listed.phase or "").lower() == "ready" and _OPERAND.fullmatch(listed.name)
        if seat is None or listed.id is None or not good:
            return None
        return CliPlace(
            program=seat.path,
            environment=seat.environment,
            user=seat.uid,
            group=seat.gid,
            version=seat.version,
            gateway=self.gateway.name,
            workspace=listed.workspace,
            name=listed.name,
            id=listed.id,
        )


def parse_metadata(data: bytes, name: str) -> Registration:
    """Return what ``gateways/<name>/metadata.json`` says; the file's own name for it must be NAME. Raises ValueError.

    ``{"name":"fake","gateway_endpoint":"https://127.0.0.1:8080","is_remote":false,"gateway_port":8080}``; from
    0.0.37 on the port may be 0, and the endpoint alone has it.
    """
    try:
        found = json.loads(data)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    if not isinstance(found, dict) or found.get("name", name) != name:
        raise ValueError("not the metadata of this gateway")
    port = found.get("gateway_port")
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        port = _port_of(found.get("gateway_endpoint"))
    return Registration(name, port, found.get("is_remote") is True, clean(found.get("auth_mode"), 32))


def _port_of(endpoint: object) -> Optional[int]:
    match = _PORT_AT_END.search(endpoint) if isinstance(endpoint, str) else None
    return int(match.group(1)) if match and 0 < int(match.group(1)) < 65536 else None


def registrations(account: Account, root: str = "/") -> tuple[Registration, ...]:
    """Return the gateways ACCOUNT's CLI knows, its own before the system's (/etc/openshell). Raises Unreadable.

    Only active_gateway and metadata.json are opened: beside them lie keys and tokens.
    """
    found: dict[str, Registration] = {}
    active = b""
    home, system = os.fsencode(account.path), os.fsencode(below(root, "/etc/openshell"))
    for top, place in ((home, _CONFIG), (home, _SNAP_CONFIG), (system, b"")):
        try:
            with HeldDir.hold(top) as base, base.open_dir(place) as config:
                named = _registered(config, found)
                active = active or named
        except FileNotFoundError:
            continue
        except Unreadable as exc:
            if os.path.lexists(top):
                raise Unreadable("gateways not readable", where=shown(top + b"/" + place), cause=exc.cause or exc.what) from exc
    chosen = active.decode("ascii", "replace")
    return tuple(replace(item, active=item.name == chosen) for item in found.values())[:MAX_GATEWAYS]


def _registered(config: HeldDir, found: dict[str, Registration]) -> bytes:
    """Add the registrations of one configuration directory; return the name in active_gateway, b"" without one."""
    names: list[bytes] = []
    if config.stat(b"gateways") is not None:
        with config.open_dir(b"gateways") as gateways:
            names = sorted(gateways.names(1024)[0])
            for raw in names:
                name = raw.decode("ascii", "replace")
                if len(found) >= MAX_GATEWAYS or name in found or not _GATEWAY_NAME.fullmatch(name):
                    continue
                try:
                    found[name] = parse_metadata(gateways.read_small(raw + b"/metadata.json", MAX_METADATA)[0], name)
                except (FileNotFoundError, Unreadable, ValueError):
                    continue
    try:
        return config.read_small(b"active_gateway", 256)[0].strip()
    except (FileNotFoundError, Unreadable):
        return b""


class Cli:
    """Keeps what every gateway told; asks again what is old, within BUDGET_S a pass, and leaves a hanging one alone for a while."""

    def __init__(self, lookups: Lookups, runner: run.Runner, *, euid: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._lookups = lookups
        self._runner = runner
        self._euid = euid
        self._clock = clock
        self._answers: dict[tuple[str, str], Answer] = {}
        self._versions: dict[tuple[object, ...], tuple[float, tuple[int, ...]]] = {}
        self._deadline = 0.0

    def ask(self, accounts: Sequence[Account], labelled: frozenset[str] = frozenset()) -> tuple[tuple[Answer, ...], list[str]]:
        """Return the gateways of all users with what they told, and warnings. Raises nothing of its own.

        ``labelled``: names of sandboxes whose id a container's label tells already.
        """
        self._deadline = self._clock() + BUDGET_S
        warnings: list[str] = []
        found: dict[tuple[str, str], Answer] = {}
        seats = 0
        for account in accounts:
            try:
                known = self._lookups.kept("gateways of " + account.home, partial(registrations, account, self._lookups.root))
            except Unreadable as exc:
                warnings.append("openshell: %s" % exc)
                continue
            configured = known or os.path.isdir(os.path.join(account.path, os.fsdecode(_CONFIG)))
            if not configured:
                continue
            seats += 1
            if seats > MAX_SEATS:
                warnings.append("openshell: only the first %d users with gateways were asked" % MAX_SEATS)
                break
            seat, why = self._seat(account)
            if not known and seat is not None:
                known = self._lookups.kept("gateway list of " + account.home, partial(self._gateways, seat))
            for gateway in known:
                key = (account.home, gateway.name)
                answer = replace(self._answers.get(key, Answer(account.name, account.home, gateway)), gateway=gateway)
                if seat is None:
                    answer = replace(answer, error="not_asked", detail=why)
                else:
                    answer = self._refreshed(seat, replace(answer, seat=seat), labelled)
                    if answer.error in ("hangs", "denied", "unauthenticated", "other"):
                        where = shown("%s, gateway %s" % (account.name or account.home, gateway.name))
                        warnings.append("openshell of %s: %s" % (where, answer.detail))
                found[key] = answer
        self._answers = found
        return tuple(found.values()), warnings

    def _gateways(self, seat: Seat) -> tuple[Registration, ...]:
        """Ask for the gateways of a configuration in which we found none: a newer CLI may keep them otherwise."""
        ask = ["gateway", "list"]
        try:
            output = self._try(seat, [*ask, "-o", "json"] if seat.can(0, 0, 47) else ask, instead=ask)
        except _Failed:
            return ()
        found = []
        for gateway in text.parse_gateways(output or b"") or ():
            if _GATEWAY_NAME.fullmatch(gateway.name):
                found.append(Registration(gateway.name, _port_of(gateway.endpoint), active=gateway.active))
        return tuple(found[:MAX_GATEWAYS])

    def _seat(self, account: Account) -> tuple[Optional[Seat], str]:
        """Return how to run ACCOUNT's CLI, or why that must not be done."""
        binary = self._lookups.binary_for("openshell", account)
        if binary is None:
            return None, "no openshell binary"
        uid = account.uid
        if uid is None:
            return None, "the owner of %s is not known" % shown(account.home)
        if self._euid not in (0, uid):
            return None, "only root or %s may ask" % shown(account.name or str(uid))
        if uid != self._euid and account.gid is None:
            return None, "the group of %s is not known" % shown(account.name or str(uid))
        real = below(self._lookups.root, binary.path)
        if not self._lookups.trusted(real, uid):
            return None, "binary %s: others may write it, so it is not run" % shown(binary.path)
        dropped = (uid, account.gid) if uid != self._euid else (None, None)
        program = os.path.realpath(real)
        seat = Seat(program, tuple(environment(account, program, os.path.dirname(real)).items()), (), *dropped)
        return replace(seat, version=self._version(seat)), ""

    def _version(self, seat: Seat) -> tuple[int, ...]:
        """Return the version's numbers, () when it cannot be told; asked once an hour, or when the file changes."""
        try:
            seen = os.stat(seat.path)
        except OSError:
            return ()
        key = (seat.path, seat.uid, seen.st_dev, seen.st_ino, seen.st_mtime_ns)
        held = self._versions.get(key)
        if held is None or self._clock() - held[0] >= REASK_S:
            if len(self._versions) > 4 * MAX_SEATS:
                self._versions.clear()
            held = (self._clock(), self._ask_version(seat))
            self._versions[key] = held
        return held[1]

    def _ask_version(self, seat: Seat) -> tuple[int, ...]:
        try:
            said = parse_version(self._run(seat, ("--version",)).stdout) or ""
        except (CommandError, _Failed):
            return ()
        numbers = re.match(r"\d+(?:\.\d+)*", said)
        return tuple(int(part) for part in numbers.group(0).split(".")) if numbers else ()

    def _refreshed(self, seat: Seat, answer: Answer, labelled: frozenset[str]) -> Answer:
        now = self._clock()
        fresh = answer.listed_at is not None and now - answer.listed_at < LIST_EVERY_S
        if now < answer.not_before or (fresh and answer.error is None):
            return answer
        try:
            listed = self._list(seat, answer.gateway.name)
            answer = replace(answer, sandboxes=_carried(answer.sandboxes, listed), listed_at=now, error=None, detail="")
            return self._detailed(seat, answer, labelled)
        except _Failed as exc:
            return replace(answer, error=exc.kind, detail=exc.detail, not_before=now + _pause(exc))

    def _list(self, seat: Seat, gateway: str) -> tuple[text.Listed, ...]:
        """All sandboxes of all workspaces, page by page: without --limit the CLI stops at 100 and does not say so."""
        found: list[text.Listed] = []
        as_json, everywhere = seat.can(0, 0, 44), seat.can(0, 0, 88)
        while len(found) < MAX_SANDBOXES:
            words = ["sandbox", "list", "-g", gateway, "--limit", str(PAGE), "--offset", str(len(found))]
            words += ["--all-workspaces"] if everywhere else []
            words += ["-o", "json"] if as_json else []
            try:
                answer = self._asked(seat, words)
            except _Failed as exc:
                # An unknown version that is older than it was taken for.
                if exc.kind != "usage" or not (everywhere or as_json):
                    raise
                everywhere, as_json = False, as_json and everywhere
                continue
            page = text.parse_list(answer)
            if page is None:
                raise _Failed("other", "sandbox list gave no list")
            found += page
            if len(page) < PAGE:
                break
        return tuple(found[:MAX_SANDBOXES])

    def _detailed(self, seat: Seat, answer: Answer, labelled: frozenset[str]) -> Answer:
        """Ask for what is old: the route and state of the gateway, ids that the table lacks, policies that changed."""
        gateway, now = answer.gateway.name, self._clock()
        try:
            if answer.detailed_at is None or now - answer.detailed_at >= DETAILS_EVERY_S:
                status = self._try(seat, ["status", "-g", gateway])
                route = self._try(seat, ["inference", "get", "-g", gateway])
                answer = replace(
                    answer,
                    status=text.parse_status(status or b""),
                    inference=text.parse_inference(route) if route is not None else None,
                    detailed_at=now,
                )
        except _Failed as exc:
            # The list was answered: what is missing now is asked for when it is due again.
            return replace(answer, not_before=now + _pause(exc))
        known = list(answer.sandboxes or ())
        names = Counter((told.listed.workspace, told.listed.name) for told in known)

        def is_due(told: Told) -> bool:
            # A name that was cleaned or is there twice would ask for another sandbox.
            alone = names[told.listed.workspace, told.listed.name] == 1 and told.listed.exact
            old = told.policy is None or now - told.asked_at >= DETAILS_EVERY_S
            return old and alone and _OPERAND.fullmatch(told.listed.name) is not None

        due = [number for number, told in enumerate(known) if is_due(told)]
        # Not all at once, and the longest unasked first: each has its turn, however many there are.
        for number in sorted(due, key=lambda each: known[each].asked_at)[:MAX_DETAILS]:
            told = known[number]
            try:
                known[number] = self._told(seat, gateway, told, labelled)
            except _Failed as exc:
                known[number] = replace(told, asked_at=self._clock() if exc.kind == "hangs" else told.asked_at)
                return replace(answer, sandboxes=tuple(known), not_before=now + _pause(exc))
        return replace(answer, sandboxes=tuple(known))

    def _told(self, seat: Seat, gateway: str, told: Told, labelled: frozenset[str]) -> Told:
        listed = told.listed
        tail = ["--", listed.name]
        if seat.can(0, 0, 88) and listed.workspace is not None and _OPERAND.fullmatch(listed.workspace):
            tail = ["--workspace", listed.workspace, *tail]
        if listed.id is None and listed.name not in labelled:
            output = self._try(seat, ["sandbox", "get", "-g", gateway, *tail])
            got = text.parse_get(output) if output is not None else None
            if got is not None and got.name == listed.name:
                listed = replace(listed, id=got.id, workspace=listed.workspace or got.workspace)
        payload = ["--base"] if seat.can(0, 0, 72) else ["--full"]
        payload += ["-o", "json"] if seat.can(0, 0, 47) else []
        ask = ["policy", "get", "-g", gateway]
        output = self._try(seat, [*ask, *payload, *tail], instead=[*ask, "--full", *tail])
        policy = text.parse_policy(output) if output is not None else text.Policy()
        return Told(listed, policy, self._clock())

    def _try(self, seat: Seat, words: Sequence[str], instead: Sequence[str] = ()) -> Optional[bytes]:
        """Return the output of a call that may fail without meaning: None then. Raises _Failed only when it hangs."""
        try:
            return self._asked(seat, words)
        except _Failed as exc:
            if exc.kind in ("hangs", "budget"):
                raise
            return self._try(seat, instead) if exc.kind == "usage" and instead else None

    def _asked(self, seat: Seat, words: Sequence[str]) -> bytes:
        """Return what a call printed. Raises _Failed with the kind of failure."""
        try:
            answer = self._run(seat, words)
        except CommandError as exc:
            kind = "hangs" if exc.cause.startswith(("no answer", "no exit")) else "other"
            raise _Failed(kind, exc.cause or exc.what) from exc
        if answer.rc != 0:
            kind = text.error_kind(answer.rc, answer.stderr)
            raise _Failed(kind, "%s (%s, rc %d)" % (kind, " ".join(words[:2]), answer.rc))
        return answer.stdout

    def _run(self, seat: Seat, words: Sequence[str]) -> run.Result:
        if not any(tuple(words[: len(verb)]) == verb for verb in READS):
            raise CommandError("not a reading verb", where=shown(" ".join(words)))
        left = self._deadline - self._clock()
        if left < 0.1:
            raise _Failed("budget", "other gateways took the time of this pass")
        options: dict[str, object] = {"timeout_s": min(CALL_TIMEOUT_S, left), "env": dict(seat.environment)}
        if seat.uid is not None:
            options.update(user=seat.uid, group=seat.gid)
        return self._runner([seat.path, *words], **options)


class _Failed(Exception):
    """A call that brought nothing: its kind (openshelltext.error_kind, hangs, budget) and a sentence for people."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


def _pause(exc: _Failed) -> float:
    return {"hangs": RETRY_HUNG_S, "budget": 0.0}.get(exc.kind, LIST_EVERY_S)


def _carried(before: Optional[tuple[Told, ...]], now: tuple[text.Listed, ...]) -> tuple[Told, ...]:
    """Give each listed sandbox what it was asked before, unless its policy has a newer version."""
    old = {(told.listed.workspace, told.listed.name): told for told in before or ()}
    kept = []
    for listed in now:
        known = old.get((listed.workspace, listed.name), Told(listed))
        another = listed.id is not None and known.listed.id not in (None, listed.id)
        newer = listed.policy_version is not None and listed.policy_version != known.listed.policy_version
        kept.append(Told(listed) if another or newer else replace(known, listed=replace(listed, id=listed.id or known.listed.id)))
    return tuple(kept)
