# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Open and seal a blob as the ClawMetry dashboard does, written from the wire format alone.

blob = base64url with padding of (12 byte nonce, ciphertext, 16 byte tag), AES-GCM without
associated data. The plaintext is JSON, or gzip of JSON. The engine is not imported here:
this is the other side's opinion.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def decode_key(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "==")


def open_bytes(blob: str, key: bytes) -> bytes:
    """Return the plaintext as it was sealed. Raises ValueError or InvalidTag."""
    raw = base64.urlsafe_b64decode(blob + "==")
    return AESGCM(key).decrypt(raw[:12], raw[12:], None)


def open_blob(blob: str, key: bytes) -> Any:
    """Return the JSON value in a blob."""
    plain = open_bytes(blob, key)
    return json.loads(gzip.decompress(plain) if plain[:2] == b"\x1f\x8b" else plain)


def seal_blob(value: Any, key: bytes, *, compress: bool = False) -> str:
    """Return a blob as ClawMetry's own daemon would make it."""
    plain = json.dumps(value).encode()
    nonce = os.urandom(12)
    sealed = AESGCM(key).encrypt(nonce, gzip.compress(plain, 6, mtime=0) if compress else plain, None)
    return base64.urlsafe_b64encode(nonce + sealed).decode()
