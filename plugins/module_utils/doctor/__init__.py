# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""``clawmetry doctor``: checks in the order data flows, each with what was seen, why it matters, and what to do.

Reads only; ``deep`` also sends a heartbeat with our key and asks runtimes whose answers are not free of side
effects. Levels: ok, warn, fail. Exit code: 0 all ok, 1 warnings, 2 failures. One check that breaks breaks no other.
"""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from typing import Any, Callable, Iterator, Mapping, Optional

from ..config import load
from ..errors import ClawmetryError
from . import boxes, keys, network, place, service
from .check import FAIL, OK, WARN, Check, Ground, told

SCHEMA_VERSION = 1
WIDTH = 80
_CHECKS: tuple[tuple[str, Callable[[Ground], list[Check]]], ...] = (
    ("config", keys.config),
    ("mode", place.mode),
    ("keys", keys.keys),
    ("runtimes", boxes.runtimes),
    ("engine", boxes.engine),
    ("sandboxes", boxes.sandboxes),
    ("capabilities", place.capabilities),
    ("clock", place.clock),
    ("ingest", network.ingest),
    ("unit", service.unit),
    ("daemon", service.daemon),
    ("state", keys.state),
    ("second daemon", service.others),
    ("version", service.version),
)


def run(config_path: Optional[str], env: Mapping[str, str], *, deep: bool = False) -> list[Check]:
    """Return every check that could be made of this host."""
    try:
        settings = load(config_path, env)
    except ClawmetryError as exc:
        return [Check("config", FAIL, told(exc), "the daemon will not start with it", exc.next_step or "clawmetry check-config")]
    return examine(Ground(settings, env, deep))


def examine(ground: Ground) -> list[Check]:
    """Make all checks on one ground."""
    checks: list[Check] = []
    for name, check in _CHECKS:
        try:
            checks += check(ground)
        except (ClawmetryError, OSError) as exc:
            step = getattr(exc, "next_step", "") or "sudo clawmetry doctor"
            checks.append(Check(name, FAIL, told(exc), "this could not be checked", step))
    return checks


def exit_code(checks: list[Check]) -> int:
    levels = {check.level for check in checks}
    return 2 if FAIL in levels else 1 if WARN in levels else 0


def as_json(checks: list[Check]) -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, "exit_code": exit_code(checks), "checks": [asdict(check) for check in checks]}


def report(checks: list[Check]) -> Iterator[str]:
    """Yield the lines for a person: the verdict first, then what is wrong with its cure, then what is fine."""
    count = {level: sum(check.level == level for check in checks) for level in (FAIL, WARN, OK)}
    yield "%(fail)d failed, %(warn)d to look at, %(ok)d fine" % count
    for level in (FAIL, WARN, OK):
        for check in checks:
            if check.level != level:
                continue
            yield from _wrapped("%-4s  %s: " % (level, check.name), check.seen)
            if level != OK:
                yield from _wrapped("      why:  ", check.why)
                yield from _wrapped("      next: ", check.next_step)
                yield from ("        " + line for line in check.snippet.splitlines())


def _wrapped(head: str, text: str) -> list[str]:
    if not text:
        return []
    # Paths and commands are to be pasted: no line ends within a word.
    return textwrap.wrap(head + text, WIDTH, subsequent_indent="      ", break_long_words=False, break_on_hyphens=False)


__all__ = ["Check", "Ground", "as_json", "examine", "exit_code", "report", "run"]
