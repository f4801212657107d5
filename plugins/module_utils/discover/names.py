# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Names that others chose, made fit for facts and logs. Never used as an identity."""

from __future__ import annotations

from typing import Optional

MAX_NAME = 253


def clean(value: object, limit: int = MAX_NAME) -> Optional[str]:
    """Return VALUE's printable characters, at most LIMIT; None when it is no text or nothing is left.

    Labels and registry fields are attacker input: control characters, ANSI escapes, direction
    marks and lone surrogates are dropped ("\\x1b[31mred" becomes "[31mred").
    """
    if not isinstance(value, str):
        return None
    if len(value) <= limit and value.isprintable():
        return value.strip() or None
    kept = "".join(char for char in value[: limit * 4] if char.isprintable()).strip()[:limit]
    return kept or None
