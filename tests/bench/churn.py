# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The whole of contract R24: a hundred thousand transcripts come and go. Prints JSON.

    python tests/bench/churn.py [--files 100000] [--at-once 2500]

Some thousand of them are part of tests/contract.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    importlib.import_module("conftest")  # maps the engine
    raise SystemExit(importlib.import_module("support.churn").main())
