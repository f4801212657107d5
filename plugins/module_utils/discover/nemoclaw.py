# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""NemoClaw's registries on this host: which sandboxes its users registered, with which model and policies.

Reads ``~/.nemoclaw/sandboxes.json`` and ``~/.nemoclaw/gateways/<port>/sandboxes.json`` through the
opener (no links, no FIFOs, no hard links, capped), takes whitelisted fields only, and never runs
the CLI: its status verbs start gateways and containers. Source: reference/nemoclaw.md §1, 2, 6, 7
(the shapes of March, July and August 2026).
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, replace
from typing import Callable, Mapping, Optional, Sequence

from ..errors import Unreadable, shown
from ..model import Inference, Runtime, Sandbox, Security
from ..read.opener import HeldDir
from .accounts import Account, Accounts, below
from .binaries import Binary, Lookups
from .names import clean

MAX_REGISTRY_BYTES = 16 * 1024 * 1024
MAX_ROOTS = 256
MAX_GATEWAY_ENTRIES = 1024
# No host runs that many; a longer registry was made to wear its reader out, and none of it is taken.
MAX_ENTRIES = 1000
MAX_POLICIES = 200
RETRY_AFTER_S = 0.05
DEFAULT_PORT = 8080
BINARIES = ("nemoclaw", "nemohermes", "nemo-deepagents")
_FILE = b"sandboxes.json"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PORT = re.compile(rb"\d{1,5}")
_GATEWAY = re.compile(r"nemoclaw(?:-\d{1,5})?")
# Channels by kind only; one that is not in this list is "other", since its name may be somebody's own.
_CHANNELS = frozenset(
    ("telegram", "discord", "slack", "whatsapp", "wechat", "weixin", "teams", "signal", "imessage", "matrix", "googlechat", "line", "irc")
)


@dataclass(frozen=True)
class Entry:
    """One sandbox of a registry, whitelisted fields only. ``gateway`` None: what the file says is not valid."""

    name: str
    agent: str
    inference: Inference
    policies: Optional[tuple[str, ...]]
    gateway: Optional[str]
    created_at: Optional[str] = None
    agent_version: Optional[str] = None
    driver: Optional[str] = None
    openshell_version: Optional[str] = None
    messaging: Optional[tuple[str, ...]] = None


@dataclass(frozen=True)
class Registry:
    """One parsed file: its entries in file order, its default when it is a name it holds, what was left out."""

    entries: tuple[Entry, ...] = ()
    default: Optional[str] = None
    skipped: tuple[str, ...] = ()


# Where the installer puts the CLI's own checkout, below a home.
SOURCE = b".nemoclaw/source"


@dataclass(frozen=True)
class Found:
    """One registry file of one user: where, and what it held or why it could not be taken."""

    path: str  # as shown to people
    user: Optional[str]
    registry: Optional[Registry] = None
    error: Optional[str] = None


def _port_gateway(port: int) -> str:
    return "nemoclaw" if port == DEFAULT_PORT else "nemoclaw-%d" % port


def gateway_of(entry: Mapping[str, object], root_port: int = DEFAULT_PORT) -> Optional[str]:
    """Return the gateway's name: the port decides, then the name; a value that is there but not valid gives None."""
    port, name = entry.get("gatewayPort"), entry.get("gatewayName")
    if port is not None:
        return _port_gateway(port) if isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536 else None
    if name is not None:
        good = isinstance(name, str) and _GATEWAY.fullmatch(name) and name != "nemoclaw-8080"
        return name if good and isinstance(name, str) else None
    return _port_gateway(root_port)


def _policies(value: object) -> Optional[tuple[str, ...]]:
    """None when the file does not say (from v0.0.117 on OpenShell alone knows); () when it says "none"."""
    if not isinstance(value, list):
        return None
    return tuple(name for name in (clean(item, 100) for item in value[:MAX_POLICIES]) if name is not None)


def _messaging(value: object) -> Optional[tuple[str, ...]]:
    """Return the kinds of the active channels of ``{"plan": {"channels": [{"channelId": "telegram", "active": true}]}}``.

    Tokens, ids and allow-lists beside them are never looked at. None when the entry has no plan.
    """
    plan = value.get("plan") if isinstance(value, dict) else None
    channels = plan.get("channels") if isinstance(plan, dict) else None
    if not isinstance(plan, dict) or not isinstance(channels, list):
        return None
    disabled = plan.get("disabledChannels")
    off = [item for item in disabled if isinstance(item, str)] if isinstance(disabled, list) else []
    kinds = set()
    for channel in channels[:100]:
        kind = channel.get("channelId") if isinstance(channel, dict) else None
        if isinstance(kind, str) and channel.get("active") is True and channel.get("disabled") is not True and kind not in off:
            kinds.add(kind if kind in _CHANNELS else "other")
    return tuple(sorted(kinds))


def parse_registry(data: bytes, root_port: int = DEFAULT_PORT) -> Registry:
    """Parse ``{"sandboxes": {"my-assistant": {"name": "my-assistant", …}}, "defaultSandbox": "my-assistant"}``.

    Entries that are no objects, whose name is not their key or not a valid name, and placeholders
    are skipped and named in ``skipped``. Raises ValueError when it is not such a document.
    """
    try:
        document = json.loads(data)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    listed = document.get("sandboxes", {})
    if not isinstance(listed, dict):
        raise ValueError('"sandboxes" is not an object')
    if len(listed) > MAX_ENTRIES:
        raise ValueError("%d entries, and no more than %d are believed" % (len(listed), MAX_ENTRIES))
    entries, skipped = [], []
    for key, value in listed.items():
        if not isinstance(value, dict):
            skipped.append("%s: not an object" % shown(key, 80))
        elif not _NAME.fullmatch(key):
            skipped.append("%s: not a valid sandbox name" % shown(key, 80))
        elif value.get("name", key) != key:
            skipped.append("%s: the entry has another name" % shown(key, 80))
        elif value.get("pendingRouteReservation") is not True:
            entries.append(
                Entry(
                    name=key,
                    agent=clean(value.get("agent"), 100) or "openclaw",
                    inference=Inference(clean(value.get("provider")), clean(value.get("model"))),
                    policies=_policies(value.get("policies")),
                    gateway=gateway_of(value, root_port),
                    created_at=clean(value.get("createdAt"), 64),
                    agent_version=clean(value.get("agentVersion"), 64),
                    driver=clean(value.get("openshellDriver"), 32),
                    openshell_version=clean(value.get("openshellVersion"), 64),
                    messaging=_messaging(value.get("messaging")),
                )
            )
    default = document.get("defaultSandbox")
    names = {entry.name for entry in entries}
    return Registry(tuple(entries), default if isinstance(default, str) and default in names else None, tuple(skipped))


class Registries:
    """Reads every user's registries; parses a file again only when its inode, size or mtime changed."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep
        self._kept: dict[str, tuple[tuple[int, ...], Found]] = {}
        self._good: dict[str, Registry] = {}

    def find(self, accounts: Sequence[Account]) -> list[Found]:
        """Return one Found per registry file that exists or whose place could not be read; absent ones give none."""
        found: list[Found] = []
        for account in accounts:
            shown_root = account.home + "/.nemoclaw"
            try:
                with HeldDir.hold(account.path.encode("utf-8", "surrogateescape")) as home:
                    if home.stat(b".nemoclaw") is None:
                        continue
                    with home.open_dir(b".nemoclaw") as root:
                        found += self._of_root(root, account, shown_root)
            except FileNotFoundError:
                continue
            except Unreadable as exc:
                found.append(Found(shown_root, account.name, error=str(exc)))
        current = {item.path for item in found}
        for path in [path for path in self._kept if path not in current]:
            del self._kept[path]
            self._good.pop(path, None)
        return found

    def _of_root(self, root: HeldDir, account: Account, shown_root: str) -> list[Found]:
        places: list[tuple[bytes, int]] = [(b"", DEFAULT_PORT)]
        errors = []
        try:
            with root.open_dir(b"gateways") as gateways:
                names, _more = gateways.names(MAX_GATEWAY_ENTRIES)
                ports = sorted(name for name in names if _PORT.fullmatch(name))[:MAX_ROOTS]
                places += [(b"gateways/" + name, int(name)) for name in ports]
        except FileNotFoundError:
            pass
        except Unreadable as exc:
            errors.append(Found(shown_root + "/gateways", account.name, error=str(exc)))
        found = []
        for path, port in places:
            label = "/".join([shown_root] + [part.decode("ascii") for part in (path, _FILE) if part])
            try:
                if path:
                    with root.open_dir(path) as held:
                        item = self._file(held, account, label, port)
                else:
                    item = self._file(root, account, label, port)
            except FileNotFoundError:
                item = None
            except Unreadable as exc:
                item = Found(label, account.name, error=str(exc))
            if item is not None:
                found.append(item)
        return found + errors

    def _file(self, held: HeldDir, account: Account, label: str, port: int) -> Optional[Found]:
        seen = held.stat(_FILE)
        if seen is None:
            return None
        identity = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
        known = self._kept.get(label)
        if known is not None and known[0] == identity:
            return known[1]
        error = ""
        for attempt in range(2):
            if attempt:
                # NemoClaw of March 2026 writes in place: half a file is a matter of milliseconds.
                self._sleep(RETRY_AFTER_S)
            try:
                data, stat_read = held.read_small(_FILE, MAX_REGISTRY_BYTES)
                if stat_read.st_size > MAX_REGISTRY_BYTES:
                    error = "larger than %d bytes" % MAX_REGISTRY_BYTES
                    break
                registry = parse_registry(data, port)
                found = Found(label, account.name, registry)
                self._good[label] = registry
                identity = (stat_read.st_dev, stat_read.st_ino, stat_read.st_size, stat_read.st_mtime_ns, stat_read.st_ctime_ns)
                self._kept[label] = (identity, found)
                return found
            except ValueError as exc:
                error = "not a registry (%s)" % shown(str(exc), 120)
            except FileNotFoundError:
                return None
            except Unreadable as exc:
                error = str(exc)
                break
        good = self._good.get(label)
        if good is not None:
            error += "; what it held before is used"
        found = Found(label, account.name, good, error)
        self._kept[label] = (identity, found)
        return found


def find(accounts: Sequence[Account]) -> list[Found]:
    """Read every registry once; see Registries for repeated passes."""
    return Registries().find(accounts)


def merge(
    containers: Sequence[Sandbox], registries: Sequence[Found], *, pods_in: Sequence[str] = (), engine_answered: bool = True
) -> tuple[list[Sandbox], list[str]]:
    """Return one row per sandbox, and warnings: a registry entry joins the one container labelled with its name.

    One entry and one confirmed container of that name, in the same gateway where both tell it, are the
    same sandbox; anything less clear stays apart, so that a forged label gains no other sandbox's
    identity. ``pods_in`` names OpenShell's k3s containers, where the oldest sandboxes run as pods.
    """
    entries = [(found, entry) for found in registries if found.registry for entry in found.registry.entries]
    boxes = {box.uid: box for box in containers}
    named: dict[str, list[Sandbox]] = {}
    for box in containers:
        if box.confirmed and box.type == "nemoclaw":
            named.setdefault(box.name, []).append(box)
    claims: dict[str, int] = {}
    for _found, entry in entries:
        for box in named.get(entry.name, ()):
            claims[box.uid] = claims.get(box.uid, 0) + _may_be(entry, box)
    warnings: list[str] = []
    only_registered: list[Sandbox] = []
    for found, entry in entries:
        matches = [box for box in named.get(entry.name, ()) if _may_be(entry, box)]
        if len(matches) == 1 and claims[matches[0].uid] == 1:
            boxes[matches[0].uid] = _joined(matches[0], entry, found)
            continue
        reason = "registry entry without a running container seen"
        if not engine_answered:
            reason = "registry entry; the container engine could not be asked"
        if matches:
            rivals = max(claims[box.uid] for box in matches)
            reason = "%d containers and %d registry entries share this name; not joined" % (len(matches), rivals)
            warnings.append("%s: %s" % (entry.name, reason))
        elif named.get(entry.name):
            reason += "; a container of this name belongs to gateway %s" % shown(named[entry.name][0].gateway)
        elif pods_in:
            reason += "; it may be a pod inside " + pods_in[0]
        only_registered.append(_registered(entry, found, reason))
    return list(boxes.values()) + _unique(only_registered), warnings


def _may_be(entry: Entry, box: Sandbox) -> bool:
    return box.gateway is None or entry.gateway is None or box.gateway == entry.gateway


def _joined(box: Sandbox, entry: Entry, found: Found) -> Sandbox:
    """The runtime's word on what runs, the registry's on what it was made for.

    The gateway's live route is the default sandbox's; the others keep what was recorded for them. Where the
    two differ, the one that was not taken is evidence.
    """
    live, recorded, security = box.inference, entry.inference, box.security
    is_default = found.registry is not None and found.registry.default == entry.name
    first, second = (live, recorded) if is_default else (recorded, live)
    inference = Inference(first.provider or second.provider, first.model or second.model)
    evidence = ["registry " + found.path]
    if second != Inference() and inference != second:
        evidence.append("%s says %s" % ("registry" if is_default else "the gateway's route", _route(second)))
    return replace(
        box,
        agent=entry.agent,
        gateway=entry.gateway or box.gateway,
        inference=inference,
        security=replace(security, policies=security.policies if entry.policies is None else entry.policies),
        evidence=box.evidence + tuple(evidence),
        agent_version=entry.agent_version,
        driver=entry.driver,
        messaging=entry.messaging,
    )


def _route(inference: Inference) -> str:
    return "%s / %s" % (inference.provider or "unknown", inference.model or "unknown")


def _registered(entry: Entry, found: Found, reason: str) -> Sandbox:
    return Sandbox(
        uid="registry:%s:%s" % (entry.gateway or "unknown", entry.name),
        name=entry.name,
        type="nemoclaw",
        phase_source="registry",
        gateway=entry.gateway,
        agent=entry.agent,
        inference=entry.inference,
        security=Security(policies=entry.policies),
        evidence=("registry " + found.path,),
        confirmed=True,
        reason=reason,
        agent_version=entry.agent_version,
        driver=entry.driver,
        messaging=entry.messaging,
    )


def _unique(boxes: list[Sandbox]) -> list[Sandbox]:
    """Two users may each have a gateway and a sandbox of the same names: the registry's path tells them apart."""
    taken: set[str] = set()
    result = []
    for box in boxes:
        if box.uid in taken:
            box = replace(box, uid=box.uid + "@" + box.evidence[0].partition(" ")[2])
        taken.add(box.uid)
        result.append(box)
    return result


def owners(registries: Sequence[Found]) -> dict[str, set[str]]:
    """Return the homes whose registries name a sandbox, by its name."""
    found: dict[str, set[str]] = {}
    for item in registries:
        for entry in item.registry.entries if item.registry else ():
            found.setdefault(entry.name, set()).add(item.path.partition("/.nemoclaw/")[0])
    return found


def defaults(registries: Sequence[Found]) -> list[tuple[str, str]]:
    """Return (registry path, default sandbox) of each registry: first those that name one, then the first entries of the others."""
    read = [(found.path, found.registry) for found in registries if found.registry is not None]
    named = [(path, registry.default) for path, registry in read if registry.default]
    return named + [(path, registry.entries[0].name) for path, registry in read if not registry.default and registry.entries]


def probe(*, lookups: Lookups, accounts: Accounts, registries: Sequence[Found], live: int) -> Runtime:
    """Is NemoClaw here? ``live``: containers joined to a registry. A registry outlives its uninstall and proves nothing alone."""
    binary: Optional[Binary] = None
    for name in BINARIES:
        binary = binary or lookups.binary(name, accounts.known)
    sources = lookups.kept("nemoclaw source", lambda: _below_homes(lookups.root, accounts.known, SOURCE))
    evidence = list(binary.evidence) if binary else []
    evidence += ["source " + path for path, _user in sources[:5]]
    if live:
        evidence.append("%d running or stopped sandbox(es) of its registries" % live)
    present: Optional[bool] = True if evidence else None
    for found in registries[:20]:
        count = len(found.registry.entries) if found.registry else 0
        evidence.append("registry %s: %s" % (shown(found.path), found.error or "%d sandbox(es)" % count))
    if not evidence:
        places = lookups.kept("nemoclaw directories", lambda: _below_homes(lookups.root, accounts.known, b".nemoclaw"))
        evidence += ["directory %s without a registry, which alone proves nothing" % shown(path) for path, _user in places[:5]]
    if not evidence:
        present = False if accounts.complete else None
        tail = "" if accounts.complete else ", but not every user's home could be looked into"
        evidence.append("no binary, source or registry" + tail)
    user = binary.user if binary else (sources[0][1] if sources else (registries[0].user if registries else None))
    path = binary.path if binary else (sources[0][0] if sources else None)
    return Runtime("nemoclaw", present, binary.version if binary else None, path, user, tuple(evidence))


def _below_homes(root: str, accounts: Sequence[Account], directory: bytes) -> list[tuple[str, Optional[str]]]:
    """Return (path, user) of each home that has DIRECTORY, a real one."""
    found = []
    for account in accounts:
        try:
            with HeldDir.hold(below(root, account.home).encode("utf-8", "surrogateescape")) as home:
                home.open_dir(directory).close()
        except (FileNotFoundError, Unreadable):
            continue
        found.append((account.home + "/" + directory.decode("ascii"), account.name))
    return found
