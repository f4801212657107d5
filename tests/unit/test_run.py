# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one subprocess runner: argv only, nothing of ours inherited, nothing endless."""

from __future__ import annotations

import gc
import os
import sys
import time
from pathlib import Path

import pytest

from clawmetry_sync.errors import CommandError
from clawmetry_sync.run import run

pytestmark = pytest.mark.spawns


def python(program: str, **options: object) -> object:
    return run([sys.executable, "-I", "-c", program], **options)


def test_returns_code_and_both_streams() -> None:
    result = run([sys.executable, "-I", "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"])
    assert (result.rc, result.stdout, result.stderr) == (3, b"out\n", b"err\n")


@pytest.mark.parametrize(
    "text", ["$(touch {0})", "`touch {0}`", "; touch {0}", "| touch {0}", "\ntouch {0}\n", "&& touch {0}", "%s{0}", "-x"]
)
def test_no_shell_ever_sees_an_argument(tmp_path: Path, text: str) -> None:
    trace = tmp_path / "trace"
    hostile = text.format(trace)
    result = run([sys.executable, "-I", "-c", "import sys; sys.stdout.write(sys.argv[1])", hostile])
    assert result.stdout.decode() == hostile
    assert not trace.exists()


def test_nothing_of_our_environment_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLAWMETRY_API_KEY", "LD_PRELOAD_X", "PYTHONPATH", "BASH_ENV"):
        monkeypatch.setenv(name, "canary")
    program = "import os; print(sorted(os.environ.items()))"
    assert b"canary" not in run([sys.executable, "-I", "-c", program]).stdout
    assert b"('X', 'y')" in run([sys.executable, "-I", "-c", program], env={"X": "y"}).stdout


def test_no_stdin_no_descriptor_no_directory_of_ours(tmp_path: Path) -> None:
    assert run([sys.executable, "-I", "-c", "import os, sys; print(sys.stdin.read(), os.getcwd())"]).stdout == b" /\n"
    with open(tmp_path / "secret", "w+b") as secret:
        os.set_inheritable(secret.fileno(), True)
        program = "import os; print([os.path.realpath('/proc/self/fd/' + n) for n in os.listdir('/proc/self/fd')])"
        assert os.fsencode(tmp_path) not in run([sys.executable, "-I", "-c", program]).stdout


def test_runs_in_a_session_of_its_own() -> None:
    result = run([sys.executable, "-I", "-c", "import os; print(os.getsid(0), os.getpid())"])
    session, pid = result.stdout.split()
    assert session == pid


def _alive(pid: int) -> bool:
    try:
        with open("/proc/%d/stat" % pid, "rb") as stream:
            return stream.read().rsplit(b")", 1)[1].split()[0] != b"Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("ending", ["time.sleep(600)", "sys.exit(0)"])
def test_a_child_that_hangs_is_killed_with_its_children(tmp_path: Path, ending: str) -> None:
    """A grandchild that keeps the pipes open must not keep us, nor stay behind."""
    note = tmp_path / "pid"
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-I', '-c', 'import time; time.sleep(600)'])\n"
        "open(%r, 'w').write(str(child.pid))\n%s" % (str(note), ending)
    )
    began = time.monotonic()
    with pytest.raises(CommandError, match="no answer after 1 s"):
        python(program, timeout_s=1)
    assert time.monotonic() - began < 10
    deadline = time.monotonic() + 5
    while _alive(int(note.read_text())) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _alive(int(note.read_text()))


def test_endless_output_is_cut() -> None:
    with pytest.raises(CommandError, match="more than 100000 bytes of output"):
        python("import os\nwhile True: os.write(1, b'x' * 65536)", output_cap=100_000)


def test_a_child_that_closes_its_streams_and_stays() -> None:
    with pytest.raises(CommandError, match="no exit after"):
        python("import os, time; os.close(1); os.close(2); time.sleep(600)", timeout_s=0.7)


def test_what_cannot_be_run_is_said() -> None:
    for argv in (["/none/such"], ["x\0y"]):
        with pytest.raises(CommandError, match="cannot run"):
            run(argv)


def test_an_error_shows_no_control_characters() -> None:
    with pytest.raises(CommandError) as caught:
        run(["/none/\x1b[31m\nfoo"])
    assert str(caught.value).isprintable()


@pytest.mark.root
def test_drops_to_a_user_without_groups() -> None:
    result = run(["/usr/bin/env", "id"], user=12345, group=12346)
    assert result.stdout.startswith(b"uid=12345 gid=12346 groups=12346")


def test_no_descriptor_leaks() -> None:
    gc.collect()  # what other tests have left behind must not be closed in between
    before = set(os.listdir("/proc/self/fd"))
    run([sys.executable, "-I", "-c", "pass"])
    for bad in (["/none/such"],):
        with pytest.raises(CommandError):
            run(bad)
    with pytest.raises(CommandError):
        python("import time; time.sleep(9)", timeout_s=0.2)
    assert set(os.listdir("/proc/self/fd")) <= before


def test_output_put_aside_is_capped_and_not_kept_in_memory(tmp_path: Path) -> None:
    with open(tmp_path / "aside", "w+b") as aside:
        result = run([sys.executable, "-I", "-c", "print('x' * 100000)"], stdout_to=aside.fileno())
        assert (result.stdout, aside.seek(0, 2)) == (b"", 100001)
        with pytest.raises(CommandError) as caught:
            run([sys.executable, "-I", "-c", "while True: print('x' * 100000)"], stdout_to=aside.fileno(), output_cap=1_000_000)
        assert caught.value.cause == "more than 1000000 bytes of output" and aside.seek(0, 2) <= 1_100_001


def test_output_that_cannot_be_put_aside_ends_the_command() -> None:
    with open("/dev/full", "wb") as full, pytest.raises(CommandError) as caught:
        run([sys.executable, "-I", "-c", "while True: print('x' * 100000)"], stdout_to=full.fileno())
    assert caught.value.cause == "its output cannot be kept: No space left on device"
