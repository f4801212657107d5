# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What stands in for subprocess and socket in a unit test."""

from __future__ import annotations

from typing import Any, NoReturn


class LeftTheProcess(BaseException):
    """A unit test tried to spawn, resolve or connect. Not an Exception: no broad handler may swallow it."""


def refuse(what: str) -> Any:
    """Return a function that only raises LeftTheProcess."""

    def stop(*arguments: object, **_options: object) -> NoReturn:
        raise LeftTheProcess("a unit test may not %s: %.200r; mark it if it must" % (what, arguments))

    return stop
