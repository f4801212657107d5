# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packs the engine into one file on the controller and copies it to the host.

The bytes depend on nothing but the source: sorted names, one timestamp, stored
rather than deflated (zlib releases differ). So a second run, from any
controller, has the same digest, and ansible.builtin.copy changes nothing. It
is an action rather than a task on localhost so that ansible-pull works.
"""

from __future__ import annotations

import os
import tempfile
import zipfile

from ansible import constants as C
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

ENGINE = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "module_utils")
PACKAGE = "clawmetry_sync"
MAIN = "import sys\n\nfrom clawmetry_sync.cli import main\n\nsys.exit(main())\n"
# The first moment a zip can tell.
TIMESTAMP = (1980, 1, 1, 0, 0, 0)


def engine_files(root):
    """Return the (name in the archive, path) of each source file of the engine, sorted."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                found.append((PACKAGE + "/" + os.path.relpath(path, root).replace(os.sep, "/"), path))
    return sorted(found)


def write_release(target, root=ENGINE):
    """Write the zipapp made of the engine under ROOT into the binary file TARGET."""

    def add(archive, name, data):
        entry = zipfile.ZipInfo(name, TIMESTAMP)
        entry.create_system = 3
        entry.external_attr = 0o100644 << 16
        archive.writestr(entry, data, zipfile.ZIP_STORED)

    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        add(archive, "__main__.py", MAIN)
        for name, path in engine_files(root):
            with open(path, "rb") as source:
                add(archive, name, source.read())


class ActionModule(ActionBase):
    """Build the release, then let ansible.builtin.copy do all that copying is."""

    TRANSFERS_FILES = True
    _VALID_ARGS = frozenset(("dest", "owner", "group", "mode"))

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        if not self._task.args.get("dest"):
            raise AnsibleActionFail("clawmetry_release needs dest, the file to write on the host")

        handle, release = tempfile.mkstemp(prefix="clawmetry-", suffix=".pyz", dir=C.DEFAULT_LOCAL_TMP)
        try:
            with os.fdopen(handle, "wb") as target:
                write_release(target)
            task = self._task.copy()
            task.args = {**self._task.args, "src": release}
            copy = self._shared_loader_obj.action_loader.get(
                "ansible.builtin.copy",
                task=task,
                connection=self._connection,
                play_context=self._play_context,
                loader=self._loader,
                templar=self._templar,
                shared_loader_obj=self._shared_loader_obj,
            )
            return copy.run(task_vars=task_vars)
        finally:
            os.unlink(release)
