# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tree of a daemon inside a sandbox: planned, written, found as it was written, repaired, removed. On a made-up root."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clawmetry_sync.errors import ConfigError, Unreadable
from clawmetry_sync.inside import deliver, look, tree
from clawmetry_sync.read.opener import HeldDir

GIVEN = {"ingest_url": "https://ingest.example.org", "proxy": "http://10.200.0.1:3128"}
KEYS = {"api_key": "cm_key", "encryption_key": "a key"}
PYTHON = look.Python(b"usr/bin/python3.11", (3, 11, 2), "x86_64", (2, 36), b"usr/lib")
SEEN = look.Look("build-7", "f" * 64, python=PYTHON, user=os.geteuid(), group=os.getegid())


class Ground:
    """A sandbox's root, and what is carried into it."""

    def __init__(self, directory: Path) -> None:
        self.top = directory / "root"
        self.place = self.top / "opt/clawmetry"
        (self.top / "usr/bin").mkdir(parents=True)
        (self.top / "opt").mkdir()
        (self.top / "usr/bin/python3.11").write_bytes(b"interpreter")
        self.release = directory / "clawmetry.pyz"
        self.release.write_bytes(b"program")
        self.packages = directory / "packages"
        (self.packages / "yaml").mkdir(parents=True)
        (self.packages / "yaml/__init__.py").write_text("x = 1\n")
        self.root = HeldDir.hold(os.fsencode(self.top))

    def plan(self, given: Mapping[str, Any] | None = None, **keys: Any) -> deliver.Plan:
        paths = {"release": str(self.release), "packages": str(self.packages)}
        wanted = deliver.wanted(SEEN, self.root, given=GIVEN if given is None else given, keys={**KEYS, **keys}, **paths)
        # Not everybody who runs tests may give files away.
        wanted = {path: replace(entry, uid=os.geteuid(), gid=os.getegid()) for path, entry in wanted.items()}
        return deliver.plan(self.root, wanted)

    def install(self, **options: Any) -> list[bytes]:
        plan = self.plan(**options)
        deliver.carry_out(self.root, plan)
        return plan.wrong


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path)
    yield made
    made.root.close()


def test_what_was_written_is_found_as_it_was_and_nothing_is_left_of_it(ground: Ground) -> None:
    assert not ground.place.exists() and ground.plan().changed
    assert not ground.place.exists(), "planning writes nothing"
    ground.install()
    assert (ground.place / "venv/bin/python3").read_bytes() == b"interpreter"
    assert (ground.place / "venv/lib/python3.11/site-packages/yaml/__init__.py").read_text() == "x = 1\n"
    assert "home = /usr/bin\n" in (ground.place / "venv/pyvenv.cfg").read_text()
    assert (ground.place / "etc/api_key").read_text() == "cm_key\n"
    modes = {str(path.relative_to(ground.place)): stat.S_IMODE(path.stat().st_mode) for path in ground.place.rglob("*")}
    assert modes["etc"] == modes["state"] == 0o700
    assert {modes["etc/" + name] for name in ("api_key", "encryption_key", "clawmetry.yml")} == {0o600}
    assert modes["venv/bin/python3"] == modes["clawmetry"] == 0o755
    assert not ground.plan().changed
    deliver.remove(ground.root)
    assert sorted(os.listdir(ground.top / "opt")) == []
    deliver.remove(ground.root)


def test_only_what_differs_is_written_and_what_is_too_much_goes(ground: Ground) -> None:
    ground.install()
    (ground.place / "state/queue.db").write_bytes(b"ours to keep")
    (ground.place / "clawmetry.pyz").write_bytes(b"changed")
    (ground.place / "etc/api_key").chmod(0o644)
    (ground.place / "venv/bin/python3").unlink()
    (ground.place / "venv/bin/python3").symlink_to("/bin/sh")
    packages = ground.place / "venv/lib/python3.11/site-packages"
    (packages / "evil").mkdir()
    (packages / "evil/__init__.py").write_text("import os\n")
    (packages / "yaml/__init__.py").unlink()
    (packages / "yaml/__init__.py").mkdir()
    plan = ground.plan()
    assert plan.wrong == [
        *(b"clawmetry.pyz", b"etc/api_key", b"venv/bin/python3", b"venv/lib/python3.11/site-packages/yaml/__init__.py"),
    ]
    assert plan.extra == [b"venv/lib/python3.11/site-packages/evil/__init__.py", b"venv/lib/python3.11/site-packages/evil"]
    deliver.carry_out(ground.root, plan)
    assert not ground.plan().changed
    assert (ground.place / "state/queue.db").read_bytes() == b"ours to keep"
    assert not (ground.place / "venv/bin/python3").is_symlink()


def test_a_key_that_is_not_given_stays_and_one_must_be_there(ground: Ground) -> None:
    with pytest.raises(ConfigError, match="no api key, neither given nor in the sandbox"):
        ground.plan(api_key=None)
    ground.install()
    assert not ground.plan(api_key="", encryption_key=None).changed
    assert ground.install(api_key="cm_new") == [b"etc/api_key"]
    assert (ground.place / "etc/api_key").read_text() == "cm_new\n"


def test_configuration_is_the_operators_and_its_own_paths(ground: Ground) -> None:
    ground.install()
    assert json.loads((ground.place / "etc/clawmetry.yml").read_text()) == {
        **GIVEN,
        "state_dir": "/opt/clawmetry/state",
        "api_key_file": "/opt/clawmetry/etc/api_key",
        "encryption_key_file": "/opt/clawmetry/etc/encryption_key",
        "discover": ["openclaw"],
    }


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({**GIVEN, "state_dir": "/tmp/x"}, "state_dir cannot be set"),
        ({"ingest_url": "file:///srv/archive"}, "needs an ingest"),
        ({**GIVEN, "poll_intervall": 1}, "did you mean poll_interval"),
        ({**GIVEN, "proxy": "10.200.0.1"}, "proxy must be"),
    ],
)
def test_configuration_that_will_not_do_is_refused_before_anything(ground: Ground, given: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        ground.plan(given)


def test_links_and_depth_do_not_lead_astray(ground: Ground, tmp_path: Path) -> None:
    ground.install()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("host")
    (ground.place / "state/link").symlink_to(outside)
    (ground.place / "venv/lib/python3.11/site-packages/link").symlink_to(outside)
    assert ground.install() == []
    deliver.remove(ground.root)
    assert (outside / "keep").read_text() == "host" and not ground.place.exists()

    ground.install()
    deep = os.open(ground.place / "state", os.O_RDONLY)
    for _level in range(tree.MAX_DEPTH + 5):
        os.mkdir("d", dir_fd=deep)
        below = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    with pytest.raises(Unreadable, match="directories deep"):
        deliver.remove(ground.root)


def test_a_place_that_is_a_link_is_refused(ground: Ground, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    ground.place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unreadable):
        ground.plan()
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.spawns
def test_s17_nothing_of_the_daemon_can_write_into_a_sandbox() -> None:
    """The room that does is not even loaded by the command line, whatever it is asked."""
    script = """
import importlib, importlib.util, pkgutil, sys
root = %r
spec = importlib.util.spec_from_file_location("clawmetry_sync", root + "/__init__.py", submodule_search_locations=[root])
package = importlib.util.module_from_spec(spec)
sys.modules["clawmetry_sync"] = package
spec.loader.exec_module(package)
for found in pkgutil.walk_packages([root], "clawmetry_sync."):
    if not found.name.startswith("clawmetry_sync.inside"):
        importlib.import_module(found.name)
print([name for name in sys.modules if name.startswith("clawmetry_sync.inside.")], "clawmetry_sync.daemon" in sys.modules)
""" % str(Path(deliver.__file__).parents[1])
    said = subprocess.run([sys.executable, "-Ic", script], capture_output=True, text=True, check=False)
    assert said.stdout == "[] True\n", said.stderr


@pytest.mark.root
@pytest.mark.spawns
def test_what_is_mounted_in_there_is_left_alone(tmp_path: Path) -> None:
    place = tmp_path / "opt/clawmetry"
    mounted = place / "venv/lib"
    mounted.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(mounted)], check=True)
    try:
        (mounted / "of the host").write_text("precious")
        with HeldDir.hold(os.fsencode(tmp_path / "opt")) as parent:
            with parent.open_dir(b"clawmetry") as held, pytest.raises(Unreadable, match="another file system is mounted"):
                tree.differences(held, {})
            with pytest.raises(Unreadable, match="another file system is mounted"):
                tree.remove(parent, b"clawmetry")
            with HeldDir.hold(os.fsencode(place / "venv")) as inner, pytest.raises(Unreadable, match="another file system is mounted"):
                tree.write(inner, b"lib", {}, [], [b"of the host"])
        assert (mounted / "of the host").read_text() == "precious"
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
