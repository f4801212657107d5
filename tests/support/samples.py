# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hand-made output of other people's CLIs, whole and damaged."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

DIRECTORY = Path(__file__).resolve().parents[1] / "fixtures" / "cli"
SAMPLES = {path.name: path.read_bytes() for path in sorted(DIRECTORY.iterdir()) if path.is_file()}


def sample(name: str) -> bytes:
    return SAMPLES[name]


@st.composite
def damaged(draw: st.DrawFn, prefix: str = "") -> bytes:
    """One of the samples, cut, with pieces doubled, swapped for others or overwritten with anything."""
    data = bytearray(draw(st.sampled_from([body for name, body in SAMPLES.items() if name.startswith(prefix)])))
    for _round in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        ours = st.sampled_from([b"", b"\x1b[", b"\x00", b"---\n", b"{", b": "])
        piece = draw(st.one_of(st.binary(max_size=20), st.just(bytes(data[start:end]) * 2), ours))
        data[start:end] = piece
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)
