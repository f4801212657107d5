# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Target: ClawMetry's ingest over HTTPS. The only file that opens a network connection.

One keep-alive connection, TLS 1.2 or newer with verification that no setting turns off, no redirect
followed, nothing taken from the environment (no proxy, no netrc, no CA variables): urllib3 without
requests' conveniences. Answers are capped in size and time. Source: reference/clawmetry.md §1,
contracts R16 and S24-S27.
"""

from __future__ import annotations

import email.utils
import itertools
import json
import ssl
import time
from typing import Any, Callable, Iterable, Optional

from .. import wire
from ..errors import ClawmetryError, ConfigError, shown
from ..seal import blob_pieces
from ..version import VERSION
from . import Outcome, Verdict

try:
    import certifi
    import urllib3

    HAS_URLLIB3 = True
except ImportError:
    HAS_URLLIB3 = False

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 45.0
MAX_ANSWER_BYTES = 1 << 20
MAX_RETRY_AFTER_S = 3600.0
_RETRY = frozenset((408, 425, 429))
_PAUSE = frozenset((401, 403))


def judge_status(status: int, retry_after: Optional[str] = None, date: Optional[str] = None) -> Outcome:
    """Return what an HTTP status means for an envelope. Pure; the table of contract R16."""
    if 200 <= status < 300:
        return Outcome(Verdict.ACK)
    if status in _RETRY or status >= 500:
        return Outcome(Verdict.RETRY, "HTTP %d" % status, parse_retry_after(retry_after, date))
    if status in _PAUSE:
        return Outcome(Verdict.PAUSE, "HTTP %d: the ingest does not accept this API key" % status, parse_retry_after(retry_after, date))
    if status == 413:
        return Outcome(Verdict.SPLIT, "HTTP 413: too large")
    if 400 <= status < 500:
        return Outcome(Verdict.DEAD, "HTTP %d" % status)
    # A redirect is a portal or a wrong address, never the ingest's word on this envelope.
    return Outcome(Verdict.RETRY, "HTTP %d: redirects and other unusual answers are not followed" % status)


def parse_retry_after(value: Optional[str], date: Optional[str] = None) -> Optional[float]:
    """Return seconds from a Retry-After header (number or HTTP date), None when absent or nonsense.

    DATE is the answer's own Date header: a moment is told by the sender's clock, and ours may be wrong.
    """
    if not value:
        return None
    if value.strip().isdecimal() and len(value) < 12:
        return min(float(value), MAX_RETRY_AFTER_S)
    moment, now = _moment(value), _moment(date)
    if moment is None:
        return None
    return min(max(0.0, moment - (time.time() if now is None else now)), MAX_RETRY_AFTER_S)


def _moment(value: Optional[str]) -> Optional[float]:
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() if value else None
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def tls_context(ca_file: Optional[str]) -> ssl.SSLContext:
    """Return a verifying context: the bundled authorities and, where given, the operator's own file."""
    try:
        context = ssl.create_default_context(cafile=certifi.where())
        if ca_file:
            context.load_verify_locations(cafile=ca_file)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError("cannot use ca_file", where=shown(ca_file), cause=str(exc), next_step="give a PEM bundle") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class HttpsTarget:
    """The ingest at one URL."""

    def __init__(
        self, url: str, api_key: str, open_envelope: Callable[[bytes], bytes], *, ca_file: Optional[str] = None, proxy: Optional[str] = None
    ) -> None:
        if not HAS_URLLIB3:
            raise ConfigError("this Python has no urllib3 package", next_step="run the installed clawmetry, or scripts/clawmetry")
        self.url = url
        self._headers = {
            "X-Api-Key": api_key,
            "Content-Type": "application/json",
            "User-Agent": "clawmetry-sync/" + VERSION,
            "Accept-Encoding": "identity",
        }
        options: dict[str, Any] = {"num_pools": 1, "maxsize": 1, "block": True, "retries": False}
        if url.startswith("https:"):
            options["ssl_context"] = tls_context(ca_file)
        self._pool = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
        self._api_key = api_key
        self._open = open_envelope

    def close(self) -> None:
        self._pool.clear()

    def _post(self, endpoint: str, body: Iterable[bytes], length: int, headers: dict[str, str]) -> Outcome:
        """Post BODY, LENGTH bytes in pieces: a large one is never there as a whole."""
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=ANSWER_TIMEOUT_S)
        deadline = time.monotonic() + ANSWER_TIMEOUT_S + CONNECT_TIMEOUT_S
        try:
            response = self._pool.request(
                "POST",
                self.url + endpoint,
                body=body,
                headers={**self._headers, **headers, "Content-Length": str(length)},
                redirect=False,
                preload_content=False,
                timeout=timeout,
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as exc:
            # The message may name the URL, never a header.
            return Outcome(Verdict.RETRY, "%s: %s" % (type(exc).__name__, shown(str(exc))))
        try:
            data = b""
            while len(data) <= MAX_ANSWER_BYTES and time.monotonic() < deadline:
                # What has come so far, not decoded: a trickle or a bomb must not outwit deadline and cap.
                piece = response.read1(65536, decode_content=False)
                if not piece:
                    break
                data += piece
            else:
                # Too long or too slow: the status line still counts, the connection does not.
                response.close()
                data = b""
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            return Outcome(Verdict.RETRY, "answer broken off: %s" % type(exc).__name__)
        finally:
            response.release_conn()
        outcome = judge_status(response.status, response.headers.get("Retry-After"), response.headers.get("Date"))
        answer = _object(data)
        if response.status == 403 and answer is not None and answer.get("error") == "policy_denied":
            # Not the ingest's word: the proxy of the sandbox we run in answers so. It may let us through at any time.
            outcome = Outcome(Verdict.RETRY, "the sandbox's network policy denies POST %s (policy_denied); clawmetry doctor" % endpoint)
        return Outcome(outcome.verdict, outcome.reason, outcome.retry_after_s, answer)

    def register(self, node_id: Optional[str], hostname: str, machine_id: str) -> Outcome:
        body: dict[str, Any] = {"api_key": self._api_key, "hostname": hostname, "machine_id": machine_id}
        if node_id:
            body["existing_node_id"] = node_id
        text = wire.dumps(body)
        return self._post(wire.AUTH, [text], len(text), {})

    def deliver(self, endpoint: str, node_id: str, key: str, envelope: bytes) -> Outcome:
        if endpoint == wire.SESSIONS:
            # Sealed while it waits here; the ingest takes these rows in the clear, with sealed titles.
            try:
                rows = self._open(envelope)
            except ClawmetryError as exc:
                # The key was changed while it waited: asking again would hold up everything behind it.
                return Outcome(Verdict.DEAD, str(exc))
            body: Iterable[bytes] = [rows]
            length = len(rows)
        else:
            head, _blob, tail = wire.sealed_body(node_id, b"")
            body = itertools.chain([head], blob_pieces(envelope), [tail])
            length = len(head) + (len(envelope) + 2) // 3 * 4 + len(tail)
        return self._post(endpoint, body, length, {"X-Node-Id": shown(node_id), "Idempotency-Key": key})

    def heartbeat(self, body: dict[str, Any]) -> Outcome:
        text = wire.dumps(body)
        return self._post(wire.HEARTBEAT, [text], len(text), {"X-Node-Id": shown(str(body.get("node_id", "")))})


def _object(data: bytes) -> Optional[dict[str, Any]]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
