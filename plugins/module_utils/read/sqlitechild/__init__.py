# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The program that opens a sandbox's SQLite database, or inflates a compressed transcript.

It is a fresh, confined interpreter that lives for less than a second and shares nothing with the daemon: no memory
(where the keys are), no descriptors but two directories, no environment. Once all it needs is imported it moves into
the sandbox's root, becomes the owner of the database, gives up every privilege, limits itself, and only then touches
the file; so it can do at the most what the agent itself can. It only reads: mode=ro, and the -shm that a live writer
shares is mapped read-only.

Request (JSON on stdin) and answer (frames on stdout, only after the database is closed) are described in
sqlitestore.py. These modules are also that program's whole source, handed over as compiled code in this order;
they import the standard library, zstandard and each other. The daemon itself imports none but frames.
"""

from __future__ import annotations

MODULES = ("frames", "zstd", "confinement", "database", "reader", "program")
