# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Opening zstd data: with the standard library where it can (Python 3.14), else with the package zstandard."""

from __future__ import annotations

import importlib
from typing import Any, BinaryIO, Callable, Optional

Decoder = Callable[[BinaryIO], Any]


def decoder() -> Optional[Decoder]:
    """Return what opens a stream of zstd as one of what it holds, None when there is no decoder."""
    window_log = 23  # a frame may ask for a window as large as the largest event, not for gigabytes
    try:
        zstd = importlib.import_module("compression.zstd")
        options = {zstd.DecompressionParameter.window_log_max: window_log}
        return lambda source: zstd.ZstdFile(source, options=options)
    except ImportError:
        pass
    try:
        import zstandard
    except ImportError:
        return None
    return lambda source: zstandard.ZstdDecompressor(max_window_size=1 << window_log).stream_reader(source)


def read(stream: Any, most: int) -> bytes:
    """Return the next MOST bytes of STREAM, fewer only at its end."""
    pieces = []
    while most > 0:
        piece = stream.read(min(most, 1 << 20))
        if not piece:
            break
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces)
