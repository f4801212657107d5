# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The three renderings as files in a directory of the operator's choice.

Written beside and renamed into place; a file that is there and is no plain file (a symbolic link above
all) is refused, as NemoClaw refuses it: what we are asked to write is not to land somewhere else.
"""

from __future__ import annotations

import os
import stat
import tempfile
from typing import Mapping, Optional

from ..errors import ConfigError, shown
from .render import FILES

MAX_BYTES = 1 << 20
MODE = 0o644


def look(directory: str) -> dict[str, Optional[str]]:
    """Return what each file of FILES holds now, None where there is none. Raises ConfigError."""
    return {key: _read(os.path.join(directory, name)) for key, name in FILES.items()}


def _read(path: str) -> Optional[str]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if os.path.islink(path):
            raise _refused(path, "it is a symbolic link") from exc
        raise ConfigError("cannot read the file", where=shown(path), cause=os.strerror(exc.errno or 0)) from exc
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _refused(path, "it is no plain file")
    with open(fd, "rb") as stream:
        return stream.read(MAX_BYTES).decode("utf-8", "replace")


def _refused(path: str, cause: str) -> ConfigError:
    return ConfigError("this file is not written", where=shown(path), cause=cause, next_step="remove it, or set another dest")


def write(directory: str, wanted: Mapping[str, Optional[str]]) -> None:
    """Make the files hold WANTED, None removes one. The directory must exist. Raises ConfigError."""
    held = look(directory)
    for key, name in FILES.items():
        path, text = os.path.join(directory, name), wanted[key]
        if held[key] == text:
            continue
        try:
            if text is None:
                os.unlink(path)
            else:
                _put(directory, path, text)
        except OSError as exc:
            raise ConfigError("cannot write the file", where=shown(path), cause=os.strerror(exc.errno or 0)) from exc


def _put(directory: str, path: str, text: str) -> None:
    fd, temporary = tempfile.mkstemp(prefix=".clawmetry-", dir=directory)
    try:
        with open(fd, "w", encoding="ascii") as stream:
            stream.write(text)
            stream.flush()
            os.fchmod(fd, MODE)
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
