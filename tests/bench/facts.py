# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""P7: what clawmetry_snapshot costs beside ansible.builtin.setup. Prints JSON; claims nothing by itself.

    python tests/bench/facts.py [--rounds 9]

Ansible packs each module once; what it packed is then run as on a host, by turns, and the CPU time of the
whole process (user and system, its children included) is taken. Sizes: the file that is sent, and the zip in it.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    "snapshot": ("clawmetry_snapshot", ""),
    "snapshot, min": ("clawmetry_snapshot", "gather_subset=min"),
    "setup": ("ansible.builtin.setup", ""),
}


def packed(scratch: Path, module: str, arguments: str) -> Path:
    """Return what Ansible sends to a host for one call."""
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_HOME": str(scratch / "home"),
        "ANSIBLE_REMOTE_TEMP": str(scratch / "remote"),
        "ANSIBLE_KEEP_REMOTE_FILES": "true",
        "ANSIBLE_PIPELINING": "false",
    }
    argv = [sys.executable, "-m", "ansible", "adhoc", "localhost", "-m", module, "-a", arguments]
    subprocess.run(argv, env=environment, cwd=scratch, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300, check=True)
    (payload,) = (scratch / "remote").glob("*/AnsiballZ_*.py")
    return payload


def zip_bytes(payload: Path) -> int:
    return max(len(base64.b64decode(text)) for text in re.findall(r"[\"']([A-Za-z0-9+/=\n]{1000,})[\"']", payload.read_text()))


def run(payload: Path) -> tuple[float, float]:
    """Return (CPU, wall) milliseconds of one run."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, payload], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=300, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu * 1000, (time.monotonic() - began) * 1000


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=9)
    rounds = arguments.parse_args().rounds
    with tempfile.TemporaryDirectory() as scratch:
        payloads = {}
        for number, (name, call) in enumerate(MODULES.items()):
            place = Path(scratch) / str(number)
            place.mkdir()
            payloads[name] = packed(place, *call)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in payloads}
        for number in range(rounds + 1):
            for name, payload in payloads.items():
                once = run(payload)
                if number:  # the first one warms the caches
                    taken[name].append(once)
        figures = {
            name: {
                "payload_bytes": payload.stat().st_size,
                "zip_bytes": zip_bytes(payload),
                "cpu_ms_median": round(statistics.median(cpu for cpu, _wall in taken[name])),
                "wall_ms_median": round(statistics.median(wall for _cpu, wall in taken[name])),
            }
            for name, payload in payloads.items()
        }
    print(json.dumps({"rounds": rounds, **figures}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
