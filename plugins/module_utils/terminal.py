# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The two streams: what was asked for on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Iterator, Optional, TextIO

from .errors import ClawmetryError


def _write(stream: Optional[TextIO], text: str) -> None:
    if stream is None:  # closed by whoever started us (>&-)
        return
    # A terminal that cannot show a letter gets its escape, never a traceback.
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def drop() -> None:
    """Let go of what stdout did not take, so that the end of the process does not stumble over it again."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise  # the reader has seen enough: no error
    except OSError as exc:
        drop()
        raise ClawmetryError("cannot write the answer", where="stdout", cause=os.strerror(exc.errno or 0)) from exc


def line(text: str = "") -> None:
    """Print an answer. Raises BrokenPipeError when nobody reads it, ClawmetryError when it cannot be written."""
    with _answering():
        _write(sys.stdout, text + "\n")


def note(text: str = "", end: str = "\n") -> None:
    """Print a remark, at once."""
    _write(sys.stderr, text + end)
    if sys.stderr is not None:
        sys.stderr.flush()


def flush() -> None:
    """Let the answers go now. Raises as line() does: here a full disk or a reader that has gone is found out."""
    if sys.stdout is not None:
        with _answering():
            sys.stdout.flush()
