# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The egress rule for a daemon that runs inside a sandbox: one model, three renderings, and its careful application.

A daemon on the host needs none of this. Nothing here is imported by the daemon: applying happens
because a person asked for it, through the command line of the runtime that owns the sandbox.
"""

from __future__ import annotations
