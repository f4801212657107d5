# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""From a discovered sandbox to a held one: which engine is asked again, and what a look at all of them tells.

Apart from the finder's thread, which facts do not need (P7).
"""

from __future__ import annotations

import time
from typing import Optional

from .config import Settings
from .discover import docker, k3s
from .dockerapi import Engine
from .errors import Unreadable
from .model import ContainerPlace, Discovery, Sandbox, Survey
from .read import procroot, routes
from .read.routes import HeldSandbox
from .run import NO_TIME


def hold(sandbox: Sandbox, settings: Settings, ends_at: float = float("inf")) -> HeldSandbox:
    """Hold one sandbox by the allowed routes; ask no engine after ENDS_AT. Raises Unreadable."""
    engine = Engine(sandbox.container.engine, ends_at=ends_at) if sandbox.container is not None else None

    def again(place: ContainerPlace) -> Optional[ContainerPlace]:
        if place.pod is not None:
            return k3s.reinspect(place)
        if engine is None or not procroot.is_of_container(place.pid, place.container_id):
            # An engine on another machine, or in a virtual one, tells pids that mean somebody else here.
            raise Unreadable("process %d is not the container's" % place.pid, where=place.container_id[:12])
        return docker.reinspect(engine, place)

    return routes.open_sandbox(sandbox, routes=settings.routes, reinspect=again, engine=engine, spool_dir=settings.state_dir)


def survey_all(settings: Settings, found: Discovery, ends_at: float = float("inf")) -> dict[str, Survey]:
    """Return what listing each sandbox told, by uid: for one-shot facts. Nothing stays open, none is begun after ENDS_AT."""
    surveys: dict[str, Survey] = {}
    for sandbox in found.sandboxes:
        if time.monotonic() >= ends_at:
            surveys[sandbox.uid] = Survey(readable=False, reason="not looked into: " + NO_TIME)
            continue
        try:
            held = hold(sandbox, settings, ends_at)
        except Unreadable as exc:
            surveys[sandbox.uid] = Survey(readable=False, reason=str(exc))
            continue
        try:
            surveys[sandbox.uid] = routes.survey(held)
        finally:
            held.close()
    return surveys
