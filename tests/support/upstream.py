# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A home as ClawMetry's own client leaves it, made by hand from the facts (reference/clawmetry.md §2, §3)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Mapping, Optional

PASSPHRASE = "correct horse battery staple"  # not base64url of a key: the legacy rule applies
LEGACY_KEY = hashlib.sha256(PASSPHRASE.encode()).digest()
OLD_API_KEY = "cm_old_fedcba9876543210"
NODE_ID = "an-old-node"


def make_upstream_home(
    home: Path,
    *,
    cursors: Optional[Mapping[str, int]] = None,
    sandbox_cursors: Optional[Mapping[str, int]] = None,
    nocloud: bool = False,
    **config: Any,
) -> Path:
    """Make HOME/.clawmetry; a CONFIG value of None leaves that key out. Returns the directory."""
    directory = home / ".clawmetry"
    directory.mkdir(mode=0o755, parents=True)
    document = {
        "api_key": OLD_API_KEY,
        "node_id": NODE_ID,
        "platform": "Linux",
        "connected_at": "2026-10-30T08:00:00+00:00",
        "encryption_key": PASSPHRASE,
        **config,
    }
    path = directory / "config.json"
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))
    path.chmod(0o600)
    state = {
        "last_event_ids": dict(cursors or {}),
        "sandbox_session_cursors": dict(sandbox_cursors or {}),
        "last_log_offsets": {"openclaw-2026-11-20.log": 4096},
        "last_sync": "2026-11-20T10:00:00.123456+00:00",
        "initial_backfill_done": True,
    }
    (directory / "sync-state.json").write_text(json.dumps(state))
    if nocloud:
        (directory / "nocloud").touch()
    return directory
