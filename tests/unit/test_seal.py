# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""S22 and the wire format: envelopes a ClawMetry dashboard opens, and the other way round."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawmetry_sync import seal
from clawmetry_sync.errors import ConfigError
from clawmetry_sync.seal import Sealer, SealError, from_blob, new_key, parse_key, to_blob
from support.decoder import decode_key, open_blob, open_bytes, seal_blob

KEY_TEXT = base64.urlsafe_b64encode(bytes(range(32))).decode()
KEY = bytes(range(32))


def test_an_independent_decoder_opens_ours() -> None:
    for compress in (False, True):
        event = {"session_file": "a.jsonl", "events": [{"text": "héllo 世界 " * 1000}]}
        blob = to_blob(Sealer(KEY).seal(json.dumps(event).encode(), compress=compress)).decode()
        assert re.fullmatch(r"[A-Za-z0-9_-]+={0,2}", blob) and len(blob) % 4 == 0
        assert open_blob(blob, decode_key(KEY_TEXT)) == event
        assert (open_bytes(blob, KEY)[:2] == b"\x1f\x8b") is compress


def test_ours_opens_what_an_independent_encoder_sealed() -> None:
    for compress in (False, True):
        blob = seal_blob({"a": ["\u2028", 1]}, KEY, compress=compress)
        for text in (blob, blob.rstrip("=")):
            assert json.loads(Sealer(KEY).open(from_blob(text))) == {"a": ["\u2028", 1]}


@given(st.binary(max_size=10_000), st.booleans())
def test_what_is_sealed_opens(data: bytes, compress: bool) -> None:
    plain = b"{" + data
    assert Sealer(KEY).open(Sealer(KEY).seal(plain, compress=compress)) == plain


def test_every_envelope_has_a_nonce_of_its_own() -> None:
    sealer = Sealer(KEY)
    envelopes = [bytes(sealer.seal(b"the same")) for _number in range(20_000)]
    assert len({envelope[:12] for envelope in envelopes}) == len(envelopes)
    assert len({envelope[12:] for envelope in envelopes}) == len(envelopes)
    assert all(len(envelope) == 12 + 8 + 16 for envelope in envelopes)


def test_small_plaintexts_are_not_compressed() -> None:
    assert open_bytes(to_blob(Sealer(KEY).seal(b"x" * 4095, compress=True)).decode(), KEY) == b"x" * 4095


@pytest.mark.parametrize("place", [0, 11, 12, 20, -16, -1])
def test_a_changed_byte_does_not_open(place: int) -> None:
    envelope = bytearray(Sealer(KEY).seal(b'{"a":1}' * 10))
    envelope[place] ^= 1
    with pytest.raises(SealError, match="does not open"):
        Sealer(KEY).open(bytes(envelope))


def test_another_key_or_a_stump_does_not_open() -> None:
    envelope = Sealer(KEY).seal(b"{}")
    with pytest.raises(SealError):
        Sealer(bytes(32)).open(envelope)
    for length in (0, 5, 12, 27):
        with pytest.raises(SealError):
            Sealer(KEY).open(envelope[:length])


def test_a_gzip_bomb_is_not_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "MAX_PLAINTEXT_BYTES", 1 << 20)
    bomb = gzip.compress(bytes(8 << 20))
    sealer = Sealer(KEY)
    with pytest.raises(SealError, match="inflates to more than"):
        sealer.open(sealer.seal(bomb))
    with pytest.raises(SealError, match="damaged gzip"):
        sealer.open(sealer.seal(b"\x1f\x8bnot gzip"))


@pytest.mark.parametrize("size", [16, 24, 32])
def test_a_base64url_key_is_the_key(size: int) -> None:
    raw = bytes(range(200, 200 + size))
    for text in (
        base64.urlsafe_b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
        base64.b64encode(raw).decode() + "\n",
    ):
        assert parse_key(text) == raw
        assert not seal.is_passphrase(text)


def test_any_other_text_is_a_passphrase() -> None:
    for text in ("correct horse battery staple", base64.urlsafe_b64encode(bytes(20)).decode(), "abc"):
        assert parse_key(" %s\n" % text) == hashlib.sha256(text.encode()).digest()
        assert seal.is_passphrase(text)
    with pytest.raises(ConfigError):
        parse_key(" \n")


def test_new_keys_are_keys() -> None:
    keys = {new_key() for _number in range(100)}
    assert len(keys) == 100
    assert all(len(parse_key(key)) == 32 and not seal.is_passphrase(key) for key in keys)


def test_a_blob_that_is_none() -> None:
    with pytest.raises(SealError):
        from_blob("\u00e4")


def test_no_message_carries_key_or_plaintext() -> None:
    sealer = Sealer(KEY)
    envelope = sealer.seal(b"very secret text")
    with pytest.raises(SealError) as caught:
        Sealer(bytes(32)).open(envelope)
    text = "%s %r %r" % (caught.value, caught.value, caught.value.__cause__)
    assert "very secret" not in text and KEY_TEXT not in text
    assert KEY_TEXT not in repr(sealer) and KEY.hex() not in repr(sealer.__dict__)


def test_pseudonyms_are_stable_per_key_and_say_nothing() -> None:
    assert Sealer(KEY).pseudonym("15550100") == Sealer(KEY).pseudonym("15550100")
    assert Sealer(KEY).pseudonym("15550100") != Sealer(bytes(32)).pseudonym("15550100")
    assert re.fullmatch(r"[0-9a-f]{12}", Sealer(KEY).pseudonym("\ud800"))


def test_without_the_package_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "HAS_CRYPTOGRAPHY", False)
    with pytest.raises(ConfigError, match="no cryptography package"):
        Sealer(KEY)
