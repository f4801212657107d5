# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The whole of contract R29: half an hour of random faults. Prints JSON; ends with an error when anything was lost.

    python tests/bench/soak.py [--minutes 30] [--seed N]

As root it also fills the disk. A short run of the same is part of tests/contract.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    importlib.import_module("conftest")  # maps the engine
    raise SystemExit(importlib.import_module("support.soak").main())
