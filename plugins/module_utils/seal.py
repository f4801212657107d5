# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Envelopes: AES-256-GCM as ClawMetry's dashboards open it. Source: reference/clawmetry.md §2.

envelope = nonce[12] || ciphertext || tag[16], no associated data; blob = base64url of it, padding
kept. The plaintext is JSON, or gzip of it where the ingest said it takes that. This is the only
file that imports ``cryptography``.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import hmac
import os
import zlib
from typing import Iterator, Optional, Union

from .errors import ClawmetryError, ConfigError

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    HAS_CRYPTOGRAPHY = True
except ImportError:
    HAS_CRYPTOGRAPHY = False

NONCE_BYTES = 12
TAG_BYTES = 16
GZIP_FROM_BYTES = 4096
_GZIP_MAGIC = b"\x1f\x8b"
# An envelope is made by us or by an ingest client alike; nothing legitimate inflates beyond this.
MAX_PLAINTEXT_BYTES = 64 << 20


class SealError(ClawmetryError):
    """An envelope could not be opened: wrong key, or changed bytes."""


def parse_key(text: str) -> bytes:
    """Return the AES key a key file's text stands for.

    base64url of 32 (also 16 or 24) bytes is the key itself; any other text is a passphrase of an
    old installation and becomes SHA-256 of it, as ClawMetry derives it. Raises ConfigError on an empty text.
    """
    text = text.strip()
    if not text:
        raise ConfigError("the encryption key is empty", next_step="clawmetry keygen")
    decoded = _decode_key(text)
    return decoded if decoded is not None else hashlib.sha256(text.encode("utf-8")).digest()


def is_passphrase(text: str) -> bool:
    """Is this key text one that goes through the legacy derivation? Worth a warning."""
    return _decode_key(text.strip()) is None


def _decode_key(text: str) -> Optional[bytes]:
    try:
        raw = base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) in (16, 24, 32) else None


def new_key() -> str:
    """Return a new random 256-bit key as base64url text."""
    return base64.urlsafe_b64encode(os.urandom(32)).decode("ascii")


def to_blob(envelope: Union[bytes, bytearray]) -> bytes:
    return base64.urlsafe_b64encode(envelope)


def blob_pieces(envelope: bytes, size: int = 48 << 10) -> Iterator[bytes]:
    """Yield the blob of ENVELOPE piece by piece; SIZE is a multiple of 3."""
    for start in range(0, len(envelope), size):
        yield base64.urlsafe_b64encode(envelope[start : start + size])


def from_blob(blob: str) -> bytes:
    """Return the envelope of a blob, with or without padding. Raises SealError."""
    try:
        text = blob.rstrip("=")
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as exc:
        raise SealError("a blob is not base64url") from exc


class Sealer:
    """Seals and opens with one key. A fresh random nonce for every envelope."""

    def __init__(self, key: bytes) -> None:
        if not HAS_CRYPTOGRAPHY:
            raise ConfigError("this Python has no cryptography package", next_step="run the installed clawmetry, or scripts/clawmetry")
        self._key = key
        self._aead = AESGCM(key)
        self._pseudonym_key = hmac.digest(key, b"clawmetry.sync pseudonym", "sha256")

    def seal(self, plaintext: bytes, *, compress: bool = False) -> bytearray:
        """Return the envelope of PLAINTEXT, gzipped first when COMPRESS is set and it is worth it.

        Written in place: an envelope may be of 8 MiB, and each copy of it counts against the bound on memory.
        """
        if compress and len(plaintext) >= GZIP_FROM_BYTES:
            plaintext = gzip.compress(plaintext, 1, mtime=0)
        nonce = os.urandom(NONCE_BYTES)
        encryptor = Cipher(algorithms.AES(self._key), modes.GCM(nonce)).encryptor()
        # update_into() asks for a block's length less one beyond what it writes.
        envelope = bytearray(NONCE_BYTES + len(plaintext) + TAG_BYTES + 15)
        envelope[:NONCE_BYTES] = nonce
        with memoryview(envelope) as whole, whole[NONCE_BYTES:] as sealed:
            end = NONCE_BYTES + encryptor.update_into(plaintext, sealed)
        encryptor.finalize()
        envelope[end : end + TAG_BYTES] = encryptor.tag
        del envelope[end + TAG_BYTES :]
        return envelope

    def pseudonym(self, text: str) -> str:
        """Return 12 hex digits that stand for TEXT and cannot be turned back without the key."""
        return hmac.digest(self._pseudonym_key, text.encode("utf-8", "surrogatepass"), "sha256").hex()[:12]

    def open(self, envelope: Union[bytes, bytearray]) -> bytes:
        """Return the JSON plaintext of ENVELOPE, gunzipped if need be. Raises SealError."""
        try:
            plaintext = self._aead.decrypt(envelope[:NONCE_BYTES], envelope[NONCE_BYTES:], None)
        except (InvalidTag, ValueError) as exc:
            raise SealError("an envelope does not open with this key", next_step="check encryption_key_file") from exc
        if plaintext[:2] != _GZIP_MAGIC:
            return plaintext
        inflater = zlib.decompressobj(31)
        try:
            data = inflater.decompress(plaintext, MAX_PLAINTEXT_BYTES)
        except zlib.error as exc:
            raise SealError("an envelope holds damaged gzip data") from exc
        if inflater.unconsumed_tail:
            raise SealError("an envelope inflates to more than %d bytes" % MAX_PLAINTEXT_BYTES)
        return data
