# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""``clawmetry archive list|show|push``: what the local encrypted archive holds, decrypted to the terminal, forwarded."""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any, Iterator

from . import secretfile, wire
from .config import Settings, check_url, load
from .errors import ConfigError, shown
from .seal import Sealer, SealError, parse_key
from .ship import Verdict
from .ship.archive import Archive, Stored
from .ship.https import HttpsTarget
from .terminal import line, note

PUSH_RETRY_S = 2.0
PUSH_TRIES = 5


def add_parser(verbs: Any, shared: argparse.ArgumentParser) -> None:
    text = "the local encrypted archive: list, show, push"
    archive = verbs.add_parser("archive", help=text, description="The local encrypted archive.", parents=[shared])
    actions = archive.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="what is in it, by session", parents=[shared])
    listing.add_argument("--json", action="store_true", help="print JSON")
    show = actions.add_parser("show", help="decrypt transcripts to the terminal, one JSON record a line", parents=[shared])
    show.add_argument("session", nargs="?", help="a session id, or the beginning of one (default: every session)")
    show.add_argument("--sandbox", metavar="NAME", help="only of this sandbox")
    show.add_argument(
        "--kind", choices=("events", "sessions", "memory", "system-snapshot"), default="events", help="what to show (default: events)"
    )
    show.add_argument("--raw", action="store_true", help="print control characters of a sandbox as they are")
    push = actions.add_parser("push", help="forward what was not forwarded yet to an ingest", parents=[shared])
    push.add_argument("--to", metavar="URL", help="the ingest (default: https://ingest.clawmetry.com, or ingest_url when it is not a file)")


def run(args: argparse.Namespace) -> int:
    settings = load(args.config)
    sealer = Sealer(parse_key(secretfile.encryption_key_text(settings, os.environ)))
    archive = Archive(settings.archive_dir, create=False, read_only=args.action != "push")
    try:
        if args.action == "list":
            return _list(archive, sealer, args)
        if args.action == "show":
            return _show(archive, sealer, args)
        return _push(archive, sealer, settings, args)
    finally:
        archive.close()


class _Opened:
    """The archive's envelopes with what they hold; those of another key are counted and left out."""

    def __init__(self, archive: Archive, sealer: Sealer) -> None:
        self._archive, self._sealer = archive, sealer
        self.closed = 0

    def of(self, endpoint: str) -> Iterator[tuple[Stored, dict[str, Any]]]:
        for stored in self._archive.envelopes(endpoint):
            try:
                value = json.loads(self._sealer.open(stored.payload))
            except SealError:
                self.closed += 1
                continue
            if not isinstance(value, dict):
                raise SealError("an envelope holds no JSON object")
            yield stored, value

    def verdict(self) -> int:
        """Say how many could not be opened; return the exit code."""
        if self.closed:
            note("clawmetry: %d envelopes do not open with this key. Next: the former one in encryption_key_file" % self.closed)
        return 1 if self.closed else 0


def _list(archive: Archive, sealer: Sealer, args: argparse.Namespace) -> int:
    sessions: dict[tuple[str, str, str], dict[str, Any]] = {}
    opened = _Opened(archive, sealer)
    for stored, body in opened.of(wire.EVENTS):
        source = body.get("source") or {}
        key = (str(source.get("sandbox.name")), str(source.get("agent")), str(body.get("session_file")))
        row = sessions.setdefault(
            key, {"sandbox": key[0], "agent": key[1], "session_file": key[2], "events": 0, "bytes": 0, "envelopes": 0}
        )
        row["events"] += len(body.get("events", ()))
        row["bytes"] += len(stored.payload)
        row["envelopes"] += 1
        row["last"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(stored.at))
    kinds: list[dict[str, Any]] = [
        {"endpoint": endpoint, "envelopes": count, "bytes": size} for endpoint, count, size, _oldest, _newest in archive.summary()
    ]
    if args.json:
        line(json.dumps({"archive": archive.path, "kinds": kinds, "sessions": list(sessions.values())}, indent=2))
        return opened.verdict()
    line(archive.path)
    for kind in kinds:
        line("  %-24s %6d envelopes %12d bytes" % (kind["endpoint"], kind["envelopes"], kind["bytes"]))
    for row in sessions.values():
        line(
            "%-20s %-12s %-44s %6d events"
            % (shown(row["sandbox"], 20), shown(row["agent"], 12), shown(row["session_file"], 44), row["events"])
        )
    line("show one: clawmetry archive show SESSION")
    return opened.verdict()


def _show(archive: Archive, sealer: Sealer, args: argparse.Namespace) -> int:
    found = 0
    opened = _Opened(archive, sealer)
    for _stored, body in opened.of("/ingest/" + args.kind):
        source = body.get("source") or {}
        if args.sandbox and source.get("sandbox.name") != args.sandbox:
            continue
        if args.kind != "events":
            found += 1
            _print(body, args.raw)
            continue
        if args.session and not str(body.get("session_file")).startswith(args.session):
            continue
        for event in body.get("events", ()):
            found += 1
            _print(event, args.raw)
    if not found and not opened.closed:
        note("clawmetry: nothing of that kind is in the archive. Next: clawmetry archive list")
        return 1
    return opened.verdict()


def _print(value: Any, raw: bool) -> None:
    """Print one record on one line. An agent may have written terminal sequences; JSON escapes keep them harmless."""
    text = json.dumps(value, ensure_ascii=False)
    if not raw:
        # Beyond what JSON escapes: C1 controls, line separators, bidirectional overrides, lone surrogates.
        text = "".join(letter if letter.isprintable() else "\\u%04x" % ord(letter) for letter in text)
    line(text)


def _push(archive: Archive, sealer: Sealer, settings: Settings, args: argparse.Namespace) -> int:
    if args.to:
        url = check_url("--to", args.to)
    elif not settings.is_archive:
        url = settings.ingest_url
    else:
        url = "https://ingest.clawmetry.com"
    if url.startswith("file:"):
        raise ConfigError("--to must be an ingest, not a file")
    key = secretfile.api_key(settings, os.environ)
    if not key:
        raise ConfigError("there is no API key for %s" % url, next_step="put it into api_key_file (mode 0600)")
    target = HttpsTarget(url, key, sealer.open, ca_file=settings.ca_file, proxy=settings.proxy)
    pushed = refused = 0
    try:
        for stored in archive.envelopes(unpushed=True):
            for attempt in range(PUSH_TRIES):
                outcome = target.deliver(stored.endpoint, stored.node_id, stored.key, stored.payload)
                if outcome.verdict is not Verdict.RETRY or attempt == PUSH_TRIES - 1:
                    break
                time.sleep(min(60.0, max(PUSH_RETRY_S * 2**attempt, outcome.retry_after_s or 0.0)))
            if outcome.verdict is Verdict.ACK:
                archive.mark_pushed(stored)
                pushed += 1
            elif outcome.verdict in (Verdict.RETRY, Verdict.PAUSE):
                note("clawmetry: stopped: %s. Run it again later; what was forwarded is not sent twice" % outcome.reason)
                line("forwarded %d envelopes" % pushed)
                return 1
            else:
                refused += 1
                note("clawmetry: refused: %s %s: %s" % (stored.endpoint, stored.key, outcome.reason))
    finally:
        target.close()
    line("forwarded %d envelopes to %s%s" % (pushed, url, ", %d refused" % refused if refused else ""))
    return 1 if refused else 0
