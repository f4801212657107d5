# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Can the ingest be reached: DNS, connection, proxy, TLS, HTTP, and whose words an answer is.

Asks without a key, unless deep: an ingest refuses that, and its refusal says that the way is open. Behind a
sandbox's proxy each path is asked for, since its rule names them one by one (reference/openshell.md §5).
"""

from __future__ import annotations

import email.utils
import json
import os
from typing import Optional

from .. import secretfile, wire
from ..egress.rule import PATHS
from ..errors import ClawmetryError, shown
from ..ship.archive import FILE as ARCHIVE_FILE
from ..ship.archive import Archive
from ..ship.probe import Answer
from ..version import VERSION
from .check import FAIL, OK, WARN, Check, Ground, told
from .place import egress_command, egress_snippet

MAX_SKEW_S = 300.0
WAITS = "uploads wait in the queue until this is cured; nothing is lost meanwhile"


def ingest(ground: Ground) -> list[Check]:
    settings = ground.settings
    if settings.is_archive:
        return [_archive(settings.archive_dir)]
    behind = settings.proxy is not None or ground.host.in_sandbox is not False
    denied: list[str] = []
    words = ""
    last: Optional[Answer] = None
    for path in (wire.HEARTBEAT, *(other for other in PATHS if other != wire.HEARTBEAT and behind)):
        answer = ground.ask(settings.ingest_url, path, ca_file=settings.ca_file, proxy=settings.proxy)
        if is_policy_denial(answer):
            denied.append(path)
            words = words or policy_words(answer)
            if answer.stage == "proxy":
                denied = ["CONNECT"]  # not even the tunnel: the paths do not matter
                break
            continue
        last = answer
        if answer.stage != "answered":
            break
    checks = []
    if denied:
        checks.append(_denial(ground, denied, words))
    if last is not None and (last.stage != "answered" or not denied):
        checks.append(judge(ground, last))
    if last is not None and last.stage == "answered":
        checks += skew(ground, last)
    if ground.deep and not denied and last is not None and last.stage == "answered":
        checks += _with_key(ground)
    return checks


def _archive(directory: str) -> Check:
    text, why = "local encrypted archive at " + directory, "nothing leaves this host; clawmetry archive push sends it on later"
    if not os.path.lexists(os.path.join(directory, ARCHIVE_FILE)):
        return Check("ingest", OK, text + ", empty yet", why)
    try:
        archive = Archive(directory, create=False, read_only=True)
        try:
            kept = sum(count for _endpoint, count, _size, _oldest, _newest in archive.summary())
        finally:
            archive.close()
    except ClawmetryError as exc:
        return Check("ingest", FAIL, told(exc), "nothing can be stored", exc.next_step)
    return Check("ingest", OK, "%s, %d envelopes" % (text, kept), why)


def is_policy_denial(answer: Answer) -> bool:
    """Is this the sandbox proxy's refusal, HTTP 403 with {"error": "policy_denied", …}, rather than the ingest's?"""
    return answer.status == 403 and answer.json().get("error") == "policy_denied"


def policy_words(answer: Answer) -> str:
    return shown(json.dumps(answer.json(), sort_keys=True), 400)


def _denial(ground: Ground, denied: list[str], words: str) -> Check:
    if denied == ["CONNECT"]:
        seen = "the sandbox's proxy lets nothing through to the ingest: %s" % words
    else:
        seen = "the sandbox's proxy denies POST on %s: %s" % (", ".join(denied), words)
    why = "its network policy has no rule for this; " + WAITS
    return Check("ingest", FAIL, seen, why, egress_command(ground), egress_snippet(ground))


def judge(ground: Ground, answer: Answer) -> Check:
    """Return what an answer means. Sample of a portal's: HTTP 302 to http://login.example/ for a POST."""
    where, reason = answer.where, answer.reason
    inside = ground.host.in_sandbox is not False
    if answer.stage == "resolve":
        step = "getent hosts %s" % where.rsplit(":", 1)[0]
        step += "; inside a sandbox names resolve only through its proxy: set proxy" if inside else "; resolvectl status"
        return Check("ingest", FAIL, "DNS: %s: %s" % (where, reason), WAITS, step)
    if answer.stage == "connect":
        what = "proxy" if ground.settings.proxy else "ingest"
        return Check("ingest", FAIL, "no connection to the %s %s: %s" % (what, where, reason), WAITS, "check firewall and proxy; ss -tn")
    if answer.stage == "tls":
        step = "set ca_file to the bundle of whoever intercepts TLS here"
        if inside:
            step += ", in an OpenShell sandbox %s" % shown(ground.env.get("SSL_CERT_FILE", "/etc/openshell-tls/ca-bundle.pem"))
        return Check("ingest", FAIL, "TLS: %s: %s" % (where, reason), "what cannot be verified is not trusted; " + WAITS, step)
    if answer.stage == "http":
        return Check("ingest", FAIL, "%s speaks no HTTP: %s" % (where, reason), WAITS, "check ingest_url and proxy")
    return _status(ground, answer)


def _status(ground: Ground, answer: Answer) -> Check:
    where, status = answer.where, answer.status or 0
    if status == 407:
        text = "the proxy wants a name and a password (HTTP 407: %s)" % shown(answer.headers.get("proxy-authenticate", "no scheme"))
        return Check("ingest", FAIL, text, WAITS, "set proxy: http://NAME:PASSWORD@host:port, and the file's mode to 0640")
    if answer.stage == "proxy":
        text = "the proxy %s refuses the tunnel with HTTP %d: %s" % (where, status, _said(answer))
        return Check("ingest", FAIL, text, WAITS, "have the proxy allow CONNECT to %s" % shown(ground.settings.ingest_url))
    if 300 <= status < 400:
        place = shown(answer.headers.get("location", "nowhere"))
        text = "HTTP %d to %s: a captive portal, or a wrong address" % (status, place)
        return Check("ingest", FAIL, text, "redirects are never followed; " + WAITS, "log in to the network, or correct ingest_url")
    html = "html" in answer.headers.get("content-type", "").lower()
    if status == 511 or (200 <= status < 300 and html):
        text = "HTTP %d and a web page: a captive portal answers in the ingest's place" % status
        return Check("ingest", FAIL, text, WAITS, "log in to the network")
    if status in (404, 405, 501):
        text = "HTTP %d for POST %s" % (status, wire.HEARTBEAT)
        return Check("ingest", WARN, text, "it does not look like ClawMetry's ingest", "check the path in ingest_url")
    if status >= 500 or status in (408, 425, 429):
        text = "reached, but it answers HTTP %d: %s" % (status, _said(answer))
        return Check("ingest", WARN, text, WAITS, "it is tried again by itself; clawmetry status")
    tls = " over " + answer.tls if answer.tls else ""
    return Check("ingest", OK, "%s answers%s (HTTP %d without a key)" % (where, tls, status), "sealed envelopes go there")


def _said(answer: Answer) -> str:
    return shown(answer.body[:300].decode("utf-8", "replace").strip() or "no words", 200)


def skew(ground: Ground, answer: Answer) -> list[Check]:
    """Compare our clock with the ingest's Date header, to the second."""
    try:
        theirs = email.utils.parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return []
    apart = ground.clock() - theirs
    why = "timestamps of uploads and the ingest's checks of them drift apart"
    if abs(apart) <= MAX_SKEW_S:
        return [Check("clock skew", OK, "%.0f s from the ingest's clock" % abs(apart), why)]
    word = "ahead of" if apart > 0 else "behind"
    return [Check("clock skew", WARN, "%.0f s %s the ingest's clock" % (abs(apart), word), why, "timedatectl set-ntp true")]


def _with_key(ground: Ground) -> list[Check]:
    """Deep: a heartbeat with our key, which the ingest notes as a sign of life."""
    settings = ground.settings
    why = "the ingest takes nothing from a key it does not know"
    try:
        key = secretfile.api_key(settings, ground.env)
    except ClawmetryError:
        return []  # told elsewhere
    node = (ground.status or {}).get("node_id") or settings.node_id
    if not key or not isinstance(node, str):
        return []
    body = wire.dumps({"node_id": node, "ts": ground.clock(), "version": VERSION, "e2e": True})
    headers = {"X-Api-Key": key, "X-Node-Id": shown(node)}
    answer = ground.ask(
        settings.ingest_url, wire.HEARTBEAT, ca_file=settings.ca_file, proxy=settings.proxy, headers=headers, body=body
    )
    if answer.status in (401, 403):
        text = "the ingest refuses our API key (HTTP %d: %s)" % (answer.status, _said(answer))
        return [Check("api key accepted", FAIL, text, why, "put a valid key into api_key_file")]
    if answer.status is not None and 200 <= answer.status < 300:
        return [Check("api key accepted", OK, "the ingest took a heartbeat", why)]
    return [Check("api key accepted", WARN, "no clear answer (%s)" % (answer.reason or "HTTP %s" % answer.status), why, "try again")]
