# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The clawmetry.sync engine: discover, read, seal, queue, ship.

A plain Python package (3.9 or newer) that knows nothing of Ansible. It is
imported as an Ansible module_utils tree, from a zipapp, or from a checkout.
"""

from __future__ import annotations
