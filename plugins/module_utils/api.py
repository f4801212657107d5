# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""What the Ansible module asks of the engine: a snapshot.

What is imported here travels to a host with every call of the module (contract P7); syncing is left to the installed release.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any, Mapping, Optional, Sequence

from . import hostinfo, peek
from . import snapshot as shapes
from .config import Settings, load
from .discover import discover
from .errors import ClawmetryError, ConfigError
from .holding import survey_all
from .model import RUNTIMES


def snapshot(
    *,
    config_path: Optional[str] = None,
    gather_subset: Sequence[str] = ("all",),
    sandbox: Optional[str] = None,
    deep: bool = False,
    timeout_s: float = 60.0,
    env: Optional[Mapping[str, str]] = None,
) -> dict[str, Any]:
    """Return the facts of design.md. Reads only. Raises ConfigError and its kin.

    ``gather_subset``: names of runtimes, "all" (those of the configuration), or "min" (the host and its
    runtimes, no look into any sandbox). ``sandbox`` restricts to one, as NEMOCLAW_SANDBOX does. After
    ``timeout_s`` nothing is asked any more, and what is missing says so.
    """
    ends_at = time.monotonic() + timeout_s
    env = dict(os.environ if env is None else env)
    settings = load(config_path, env)
    if sandbox:
        settings = replace(settings, only=sandbox)
    chosen = set(gather_subset)
    unknown = chosen - set(RUNTIMES) - {"all", "min"}
    if unknown:
        raise ConfigError("gather_subset: %s is none of %s" % (", ".join(sorted(unknown)), ", ".join((*RUNTIMES, "all", "min"))))
    named = tuple(name for name in RUNTIMES if name in chosen)
    if named and "all" not in chosen:
        settings = replace(settings, discover=named)
    found = discover(**settings.discovery, deep=deep, ends_at=ends_at)
    surveys = {} if chosen == {"min"} else survey_all(settings, found, ends_at)
    host = hostinfo.gather(node_id=settings.node_id or known_node_id(settings), env=env)
    return shapes.facts(host, found, surveys)


def known_node_id(settings: Settings) -> Optional[str]:
    """Return the node id an earlier start has kept, None when there is none or it is not ours to read."""
    try:
        if not os.path.isfile(settings.queue_path):
            return None
        return peek.meta(settings.queue_path, "node_id")
    except (ClawmetryError, OSError):
        return None
