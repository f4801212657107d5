# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine under its own name ``clawmetry_sync``, and unit tests that cannot leave their process unnoticed."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.guard import refuse

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "plugins" / "module_utils"


def _map_engine() -> None:
    if "clawmetry_sync" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        "clawmetry_sync", ENGINE / "__init__.py", submodule_search_locations=[str(ENGINE)]
    )
    if spec is None or spec.loader is None:
        raise RuntimeError("no engine at %s" % ENGINE)
    package = importlib.util.module_from_spec(spec)
    sys.modules["clawmetry_sync"] = package
    spec.loader.exec_module(package)


_map_engine()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests below container/ and contract/ use the real world, whatever their marks."""
    for item in items:
        parts = item.path.relative_to(ROOT / "tests").parts if item.path.is_relative_to(ROOT / "tests") else ()
        if parts and parts[0] == "container":
            item.add_marker("container")
        if parts and parts[0] in ("container", "contract"):
            item.add_marker("spawns")
            item.add_marker("network")
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the figures a test recorded with ``record_property``; they are for people, and never asserted."""
    figures = [figure for report in terminalreporter.getreports("passed") for figure in report.user_properties]
    if figures:
        terminalreporter.section("figures")
        for name, value in figures:
            terminalreporter.write_line("%s: %s" % (name, value))


@pytest.fixture(autouse=True)
def _stays_in_its_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse subprocesses (unless marked ``spawns``) and name lookups and connections (unless ``network``)."""
    if not request.node.get_closest_marker("spawns"):
        monkeypatch.setattr(subprocess, "Popen", refuse("spawn"))
        for name in ("system", "posix_spawn", "posix_spawnp", "execv", "execve"):
            monkeypatch.setattr(os, name, refuse("spawn"))
    if not request.node.get_closest_marker("network"):
        monkeypatch.setattr(socket, "getaddrinfo", refuse("resolve"))
        monkeypatch.setattr(socket.socket, "connect", refuse("connect"))
        monkeypatch.setattr(socket.socket, "connect_ex", refuse("connect"))
    yield


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever runs the tests decides nothing."""
    for name in list(os.environ):
        if name.startswith(("CLAWMETRY_", "OPENCLAW_", "NEMOCLAW_", "OPENSHELL_", "DOCKER_")) and name != "CLAWMETRY_TEST_CACHE":
            monkeypatch.delenv(name)
