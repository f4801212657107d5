# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stands in for the get-pip that ansible-test would download: the same version of pip, from a wheel beside this file.

scripts/test puts it into ansible-test's cache with the version filled in.
"""

from __future__ import annotations

import os
import sys

WHEEL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pip-@VERSION@-py3-none-any.whl")

if __name__ == "__main__":
    sys.path.insert(0, WHEEL)
    from pip._internal.cli.main import main

    given = [argument for argument in sys.argv[1:] if argument not in ("--no-setuptools", "--no-wheel")]
    sys.exit(main(["install", "--upgrade", "--force-reinstall", WHEEL, *given]))
