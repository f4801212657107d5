# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A made-up host for the doctor: what it would look at is given, what it would run or ask is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from clawmetry_sync.config import build
from clawmetry_sync.doctor import Ground
from clawmetry_sync.hostinfo import HostInfo
from clawmetry_sync.model import ContainerPlace, Discovery, Sandbox, Survey
from clawmetry_sync.run import Result

NOW = 1795300000.0  # 2026-11-22
ALL_CAPABILITIES = 0x1FFFFFFFFFF
UNIT_FINE = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "UnitFileState": "enabled", "NRestarts": "0"}


def host(*, in_sandbox: Optional[bool] = False, in_container: Optional[bool] = False) -> HostInfo:
    evidence = ("process 1 is openshell-sandbox",) if in_sandbox else ("initial pid namespace",)
    return HostInfo("build-07", "linux", "Linux", "6.1.0", "x86_64", "3.11.7", "ab" * 32, in_container, in_sandbox, evidence)


def box(name: str = "build", *, container: bool = True) -> Sandbox:
    place = ContainerPlace("unix:///x", "3f" * 32, 4182, "", True) if container else None
    return Sandbox("docker:" + name, name, "docker", container=place, confirmed=True)


def status(**changes: Any) -> dict[str, Any]:
    return {
        "state": "ok", "version": "0.1.0", "pid": 4711, "node_id": "build-07", "trouble": None, "unreadable": {},
        "target": {"state": "ok", "reason": None}, "queue": {"pending": 0, "pending_bytes": 0}, "quarantined": 0, "dead_letters": 0,
        **changes,
    }  # fmt: skip


class Commands:
    """systemctl: the properties of our unit, and whether the old client's is active."""

    def __init__(self, unit: Mapping[str, str], old_active: bool) -> None:
        self.unit, self.old_active = unit, old_active

    def __call__(self, argv: Sequence[str], **options: Any) -> Result:
        if "show" in argv:
            return Result(tuple(argv), 0, "".join("%s=%s\n" % item for item in self.unit.items()).encode(), b"")
        return Result(tuple(argv), 0 if self.old_active else 3, b"", b"")


def ground(
    tmp_path: Path,
    *,
    config: Optional[Mapping[str, Any]] = None,
    env: Optional[Mapping[str, str]] = None,
    running: Optional[dict[str, Any]] = None,
    boxes: Sequence[Sandbox] = (),
    surveys: Optional[Mapping[str, Survey]] = None,
    where: Optional[HostInfo] = None,
    capabilities: int = ALL_CAPABILITIES,
    unit: Optional[Mapping[str, str]] = None,
    old_active: bool = False,
    **options: Any,
) -> Ground:
    """Return a host rooted at TMP_PATH/host; RUNNING is the daemon's status, None when none runs."""
    root = tmp_path / "host"
    (root / "run/systemd/system").mkdir(parents=True, exist_ok=True)
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    for pid in ("self", "4711"):
        (root / "proc" / pid).mkdir(parents=True, exist_ok=True)
        (root / "proc" / pid / "status").write_text("Name:\tx\nCapEff:\t%016x\n" % capabilities)
    defaults = {"state_dir": str(tmp_path / "state"), "encryption_key_file": str(tmp_path / "encryption_key"), "discover": ["openclaw"]}
    settings = build({**defaults, **(config or {})}, env or {}, None)
    made = Ground(
        settings,
        env or {},
        root=str(root),
        runner=Commands(UNIT_FINE if unit is None else unit, old_active),
        clock=lambda: NOW,
        control=lambda *_arguments: running,
        **options,
    )
    made._cache.update(
        host=where or host(),
        found=Discovery(sandboxes=tuple(boxes)),
        surveys=dict(surveys or {one.uid: Survey(True, "proc", agents=("main",), store="jsonl", session_count=2) for one in boxes}),
    )
    return made
