# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the container tests share: an ingest, a node that ships to it, and sandboxes that end with the test."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from support.daemon import Daemon
from support.ingest import Ingest
from support.installhost import unpacked_collection
from support.sandbox import docker

MakeNode = Callable[..., Daemon]


@pytest.fixture(scope="session", autouse=True)
def _engine() -> None:
    try:
        docker("image", "inspect", "clawmetry-test/sandbox:1", timeout_s=20)
    except (AssertionError, OSError) as exc:
        pytest.exit("no Docker engine with the images of the tests: %s. Next: tests/support/engine.sh up" % exc, 2)


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``support.installhost.host`` mounts."""
    return unpacked_collection(tmp_path_factory.mktemp("artefact"))


@pytest.fixture
def unique() -> str:
    """A name no other container has; what is left of a killed test cannot be mistaken for it."""
    return "cmtest-" + uuid.uuid4().hex[:8]


@pytest.fixture
def cleanup() -> Iterator[contextlib.ExitStack]:
    """``cleanup.enter_context(openshell_0_0_72(name))``: removed at the end, in reverse order."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def ingest() -> Iterator[Ingest]:
    """A strict ingest; the test fails at its end when anything that came was not as it must be."""
    with Ingest() as ingest:
        yield ingest
        ingest.check()


@pytest.fixture
def node(tmp_path: Path, ingest: Ingest, unique: str) -> Iterator[MakeNode]:
    """Make a daemon that looks at the sandboxes of this test only; its log is shown when the test fails."""
    made: list[Daemon] = []

    def make(**config: Any) -> Daemon:
        config.setdefault("sandboxes", {"include": [unique + "*"]})
        made.append(Daemon(tmp_path / ("node%d" % len(made)), ingest_url=ingest.url, **config))
        return made[-1]

    yield make
    for daemon in made:
        daemon.kill()
        print(daemon.log())
