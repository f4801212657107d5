# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""JSON lines: cutting bytes into complete records and judging each one. Pure; no I/O.

A record ends at 0x0A and nowhere else (raw U+2028 occurs, reference/openclaw.md §2). Records are
passed on byte for byte; parsing only decides whether a strict JSON parser at the other end will
take them, and feeds the session's counts. Budget: one parse per record, no copy of the data.
"""

from __future__ import annotations

import json
import re
from typing import Any, Callable, NoReturn, Optional

try:
    import orjson

    _fast_loads: Optional[Callable[[bytes], Any]] = orjson.loads
except ImportError:
    _fast_loads = None

# The largest records seen are base64 images of 5 MB and more (reference/openclaw.md §3).
MAX_RECORD_BYTES = 8 << 20
# Longer digit runs make standard parsers refuse the whole document (Python's own limit is 4300).
_MAX_NUMBER_CHARS = 1000
# orjson takes three times a text's size while it parses: too much for the largest.
MAX_FAST_BYTES = 1 << 20
# Standard parsers give up somewhere above this, and the record still gets an envelope around it.
MAX_DEPTH = 500
# Parsed, a value takes up to a few hundred bytes: a record of 8 MiB could ask for half a gigabyte.
MAX_VALUES = 100_000
_TEXT = re.compile(rb'"[^"]*"?')


class NotARecord(ValueError):
    """A line no strict JSON parser takes; the message is the reason shown in the quarantine."""


def _no_constant(name: str) -> NoReturn:
    raise NotARecord("not JSON: %s" % name)


def _number(text: str) -> int:
    if len(text) > _MAX_NUMBER_CHARS:
        raise NotARecord("number of %d characters" % len(text))
    return 0


def _strict_loads(line: bytes) -> Any:
    """Judge LINE with the standard library: slower, and it takes lone surrogate escapes."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise NotARecord("not UTF-8") from None
    try:
        json.loads(text, parse_constant=_no_constant, parse_int=_number)
        return json.loads(text)
    except NotARecord:
        raise
    except RecursionError:
        raise NotARecord("nested too deep") from None
    except ValueError:
        raise NotARecord("NUL bytes" if b"\0" in line else "not JSON") from None


def judge(line: bytes) -> dict[str, Any]:
    """Return the object LINE holds. Raises NotARecord with the reason."""
    value: Any
    if has_too_many_values(line):
        raise NotARecord("more than %d values" % MAX_VALUES)
    try:
        # orjson refuses all that a strict parser may refuse, and lone surrogates besides: those get a second hearing.
        value = _strict_loads(line) if _fast_loads is None or len(line) > MAX_FAST_BYTES else _fast_loads(line)
    except NotARecord:
        raise
    except ValueError:
        value = _strict_loads(line)
    if not isinstance(value, dict):
        raise NotARecord("not a JSON object")
    # Most records are too short to be that deep, and counting brackets says enough of nearly every other.
    if len(line) > 2 * MAX_DEPTH and line.count(b"{") + line.count(b"[") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise NotARecord("nested too deep")
    return value


def has_too_many_values(text: bytes) -> bool:
    """Would parsing TEXT make more than MAX_VALUES values? Counts brackets and commas outside of strings; linear, whatever it holds."""
    if len(text) <= MAX_VALUES or text.count(b",") + text.count(b"{") + text.count(b"[") <= MAX_VALUES:
        return False
    bare = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    values = end = 0
    for number, string in enumerate(_TEXT.finditer(bare)):
        start = string.start()
        values += bare.count(b",", end, start) + bare.count(b"{", end, start) + bare.count(b"[", end, start)
        end = string.end()
        if max(values, number // 4) > MAX_VALUES:
            return True
    return values + bare.count(b",", end) + bare.count(b"{", end) + bare.count(b"[", end) > MAX_VALUES


def _deeper_than(value: Any, most: int) -> bool:
    """Are there more than MOST lists and objects inside one another in VALUE?"""
    level: list[Any] = [value]
    for _depth in range(most + 1):
        inner: list[Any] = []
        for item in level:
            inner.extend(item.values() if isinstance(item, dict) else item)
        level = [item for item in inner if isinstance(item, (dict, list))]
        if not level:
            return False
    return True


def cut(buffer: bytes) -> tuple[list[bytes], int]:
    """Return the complete lines of BUFFER without their newlines, and how many bytes they take."""
    end = buffer.rfind(b"\n") + 1
    if end == 0:
        return [], 0
    return buffer[: end - 1].split(b"\n"), end


def is_blank(line: bytes) -> bool:
    return not line or line.isspace()


def _word(value: Any) -> Optional[str]:
    return value if isinstance(value, str) and 0 < len(value) <= 40 else None


class Counts:
    """What a session's records add up to, for /ingest/sessions. Kept as JSON text in queue.db.

    Source of the fields: reference/clawmetry.md §1 "Session row", reference/openclaw.md §2.
    """

    FIELDS = ("events", "bytes", "tokens", "cost", "models", "model", "started", "updated", "thinking", "end_reason")

    def __init__(self, text: str = "{}") -> None:
        kept = json.loads(text)
        self.events: int = kept.get("events", 0)
        self.bytes: int = kept.get("bytes", 0)
        self.tokens: int = kept.get("tokens", 0)
        self.cost: float = kept.get("cost", 0.0)
        self.models: dict[str, int] = kept.get("models", {})
        self.model: Optional[str] = kept.get("model")
        self.started: Optional[str] = kept.get("started")
        self.updated: Optional[str] = kept.get("updated")
        self.thinking: Optional[str] = kept.get("thinking")
        self.end_reason: Optional[str] = kept.get("end_reason")

    def text(self) -> str:
        self.cost = round(self.cost, 8)
        return json.dumps({name: getattr(self, name) for name in self.FIELDS}, separators=(",", ":"))

    def add(self, record: dict[str, Any], size: int) -> None:
        """Count one record; anything of an unexpected type is left out, never an error."""
        self.events += 1
        self.bytes += size
        stamp = record.get("timestamp")
        if isinstance(stamp, str) and len(stamp) <= 40:
            if self.started is None:
                self.started = stamp
            self.updated = stamp
        message = record.get("message")
        if not isinstance(message, dict):
            kind = record.get("type")
            if kind == "model_change":
                self._see_model(record.get("modelId"), 0)
            elif kind == "thinking_level_change":
                self.thinking = _word(record.get("thinkingLevel")) or self.thinking
            elif kind == "session":
                self.end_reason = _word(record.get("endReason"))
            return
        usage = message.get("usage")
        if not isinstance(usage, dict):
            return
        tokens = usage.get("totalTokens")
        tokens = tokens if isinstance(tokens, int) and 0 <= tokens < 1 << 40 else 0
        self.tokens += tokens
        cost = usage.get("cost")
        total = cost.get("total") if isinstance(cost, dict) else None
        if isinstance(total, (int, float)) and 0 <= total < 1e9:
            self.cost += total
        # Notes of the gateway look like answers of a model of that name, with no usage.
        if tokens or message.get("model") != "gateway-injected":
            self._see_model(message.get("model"), tokens)

    def _see_model(self, model: Any, tokens: int) -> None:
        if not isinstance(model, str) or not 0 < len(model) <= 200:
            return
        self.model = model
        if model in self.models or len(self.models) < 50:
            self.models[model] = self.models.get(model, 0) + tokens

    @property
    def main_model(self) -> Optional[str]:
        """The model with the most tokens, else the last one named."""
        if not self.models:
            return self.model
        return max(self.models.items(), key=lambda item: item[1])[0]
