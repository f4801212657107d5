# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""What a check is, and what all checks of one run share. Every look is lazy, made once, and replaceable in tests."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Optional

from .. import control, holding, hostinfo, run
from ..config import Settings
from ..discover import discover
from ..discover.accounts import below
from ..dockerapi import Engine
from ..errors import ClawmetryError, StateError, shown
from ..model import Discovery, Survey
from ..ship import probe

OK, WARN, FAIL = "ok", "warn", "fail"
SYSTEMD = "/run/systemd/system"


@dataclass(frozen=True)
class Check:
    """One finding. ``snippet`` is text to paste, as it is; ``next_step`` is the command, or the change, that cures it."""

    name: str
    level: str  # ok | warn | fail
    seen: str
    why: str = ""
    next_step: str = ""
    snippet: str = ""


def told(exc: BaseException) -> str:
    """Return an error's words without its next step, which has a field of its own."""
    if not isinstance(exc, ClawmetryError):
        return shown(str(exc), 600)
    text = exc.what + (" (%s)" % exc.where if exc.where else "") + (": " + exc.cause if exc.cause else "")
    return shown(text, 600)


@dataclass
class Ground:
    """One host, one configuration, and the ways to look at them."""

    settings: Settings
    env: Mapping[str, str]
    deep: bool = False
    root: str = "/"
    euid: int = field(default_factory=os.geteuid)
    runner: run.Runner = run.run
    clock: Callable[[], float] = time.time
    ask: Callable[..., probe.Answer] = probe.ask
    engine: Callable[[str], Any] = Engine
    control: Callable[..., Optional[dict[str, Any]]] = control.ask
    _cache: dict[str, Any] = field(default_factory=dict)

    def path(self, path: str) -> str:
        """Return PATH on the host that is looked at."""
        return below(self.root, path)

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._cache:
            self._cache[name] = make()
        return self._cache[name]

    @property
    def host(self) -> hostinfo.HostInfo:
        found: hostinfo.HostInfo = self._once("host", lambda: hostinfo.gather(env=self.env, root=self.root))
        return found

    @property
    def found(self) -> Discovery:
        found: Discovery = self._once("found", lambda: discover(**self.settings.discovery, deep=self.deep))
        return found

    @property
    def surveys(self) -> dict[str, Survey]:
        surveys: dict[str, Survey] = self._once("surveys", lambda: holding.survey_all(self.settings, self.found))
        return surveys

    def _ask(self) -> tuple[Optional[dict[str, Any]], Optional[StateError]]:
        try:
            return self.control(self.settings.socket_path, {"op": "status"}), None
        except StateError as exc:
            return None, exc

    @property
    def status(self) -> Optional[dict[str, Any]]:
        """What the running daemon says of itself; None when none answers, with the reason in ``status_problem``."""
        answer: Optional[dict[str, Any]] = self._once("status", self._ask)[0]
        return answer

    @property
    def status_problem(self) -> Optional[StateError]:
        problem: Optional[StateError] = self._once("status", self._ask)[1]
        return problem

    @property
    def has_systemd(self) -> bool:
        return os.path.isdir(self.path(SYSTEMD))
