# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""What a ClawMetry snapshot carries beside the facts: the keys a dashboard knows, as far as we can tell them honestly.

Apart from snapshot.py, because what facts import travels to a host with every call of the module (contract P7).
Shape: reference/clawmetry.md §5 (the snapshot's plaintext).
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import Any, Mapping, Optional, Sequence

from .hostinfo import HostInfo, text_of
from .model import Sandbox, Survey
from .snapshot import default_of, iso, reported

MAX_MEMORY_FILES = 500
_GIB = 1024.0**3


@dataclass(frozen=True)
class Usage:
    """Disk and memory in bytes, uptime in seconds; None where the host does not tell."""

    disk_total: Optional[int] = None
    disk_used: Optional[int] = None
    ram_total: Optional[int] = None
    ram_used: Optional[int] = None
    uptime_s: Optional[float] = None


def usage(root: str = "/") -> Usage:
    """Disk and memory now; what cannot be read is None."""
    disk_total = disk_used = None
    try:
        disk = os.statvfs(root)
        disk_total, disk_used = disk.f_blocks * disk.f_frsize, (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    except OSError:
        pass
    memory = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d{1,15}) kB$", text_of(root, "/proc/meminfo"), re.MULTILINE))
    total, free = memory.get("MemTotal"), memory.get("MemAvailable")
    ran = re.match(r"(\d{1,12}(?:\.\d+)?) ", text_of(root, "/proc/uptime"))
    return Usage(
        disk_total,
        disk_used,
        int(total) * 1024 if total else None,
        (int(total) - int(free)) * 1024 if total and free else None,
        float(ran.group(1)) if ran else _boot_clock(),
    )


def _boot_clock() -> Optional[float]:
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.clock_gettime(clock) if clock is not None else None


def plaintext(
    host: HostInfo, fact: Mapping[str, Any], surveys: Mapping[str, Survey], *, usage: Usage, boxes: Sequence[Sandbox] = ()
) -> dict[str, Any]:
    """Return the plaintext of /ingest/system-snapshot: the keys a dashboard knows, as far as we can tell them honestly.

    ``fact`` is what facts() returned, ``boxes`` the discovery's sandboxes (for container ids).
    """
    kept = reported(boxes, surveys)
    default = default_of(kept)
    memory = [(box, entry) for box in kept for entry in (surveys[box.uid].memory_files if box.uid in surveys else ())]
    counts = [surveys[box.uid].session_count for box in kept if box.uid in surveys and surveys[box.uid].readable]
    described = dict(fact["metadata"])
    described["runtime"] = default.type if default else None
    if default is not None and default.container is not None:
        described["container_id"] = default.container.container_id
    return {
        "system": system_rows(usage),
        "infra": {
            "machine": host.hostname,
            "runtime": default.type if default else None,
            "storage": _disk(usage),
            "python_version": host.python_version,
            "os_name": host.os_name,
            "os_release": host.os_release,
            "arch": host.arch,
        },
        "model": default.inference.model if default else None,
        "provider": default.inference.provider if default else None,
        "sessionCount": sum(counts) if counts or not kept else None,
        "memoryFiles": [
            {"name": name, "size": size, "modified": iso(mtime), "sandbox": box.name}
            for box, (name, size, mtime) in memory[:MAX_MEMORY_FILES]
        ],
        "memoryCount": len(memory),
        "memorySize": sum(size for _box, (_name, size, _mtime) in memory),
        "sandbox": described,
        "sandboxes": list(fact["sandboxes"]),
    }


def system_rows(usage: Usage) -> list[list[str]]:
    """Return [label, value, color] rows, only those the host told: ``["Disk /", "12.0 GB / 40.0 GB (30%)", "green"]``."""
    rows = []
    disk = _disk(usage)
    if disk is not None and usage.disk_total and usage.disk_used is not None:
        rows.append(["Disk /", disk, _color(usage.disk_used / usage.disk_total)])
    if usage.ram_total and usage.ram_used is not None:
        rows.append(["RAM", _share(usage.ram_used, usage.ram_total), _color(usage.ram_used / usage.ram_total)])
    if usage.uptime_s is not None:
        minutes = int(usage.uptime_s) // 60
        rows.append(["Uptime", "%dd %dh %dm" % (minutes // 1440, minutes // 60 % 24, minutes % 60), ""])
    return rows


def _disk(usage: Usage) -> Optional[str]:
    return _share(usage.disk_used, usage.disk_total) if usage.disk_total and usage.disk_used is not None else None


def _share(used: int, total: int) -> str:
    return "%.1f GB / %.1f GB (%d%%)" % (used / _GIB, total / _GIB, round(100.0 * used / total))


def _color(share: float) -> str:
    return "green" if share < 0.8 else "yellow" if share < 0.9 else "red"
