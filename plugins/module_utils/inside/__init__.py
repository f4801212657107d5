# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The daemon inside a sandbox: may it be put there, and putting it there. Run by a play, as root on the sandbox's host.

The one room that writes into a sandbox. No part of the daemon's flow imports it.
"""
