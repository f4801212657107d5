# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine as a real process with its own configuration, secrets and state directory.

It runs from the checkout with the interpreter of the tests: ``python -c LAUNCHER run --config …``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional

from support.ingest import API_KEY, KEY_TEXT

ENGINE = Path(__file__).resolve().parents[2] / "plugins" / "module_utils"
LAUNCHER = """
import importlib.util, sys
root = {root!r}
spec = importlib.util.spec_from_file_location("clawmetry_sync", root + "/__init__.py", submodule_search_locations=[root])
package = importlib.util.module_from_spec(spec)
sys.modules["clawmetry_sync"] = package
spec.loader.exec_module(package)
from clawmetry_sync import cli
sys.exit(cli.main())
"""
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}


class Daemon:
    """One node under DIRECTORY. ``start`` and ``kill`` may alternate; the state stays."""

    def __init__(self, directory: Path, *, ingest_url: str, key: str = KEY_TEXT, api_key: str = API_KEY, **config: Any) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.state_dir = directory / "state"
        self.config_file = directory / "clawmetry.yml"
        self.log_file = directory / "log"
        self.process: Optional[subprocess.Popen[bytes]] = None
        self._secret("encryption_key", key)
        self._secret("api_key", api_key)
        self.config: dict[str, Any] = {
            "node_id": "test-node",
            "ingest_url": ingest_url,
            "api_key_file": str(directory / "api_key"),
            "encryption_key_file": str(directory / "encryption_key"),
            "state_dir": str(self.state_dir),
            "discover": ["docker", "openshell"],
            "homes": [],
            "poll_interval": 0.2,
        }
        self.config.update(config)
        self.write_config()

    def _secret(self, name: str, text: str) -> None:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(text + "\n")

    def write_config(self) -> None:
        """JSON is YAML as well."""
        self.config_file.write_text(json.dumps(self.config, indent=2))

    def _argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-I", "-c", LAUNCHER.format(root=str(ENGINE)), "--config", str(self.config_file), *arguments]

    def _environment(self, extra: Optional[Mapping[str, str]]) -> dict[str, str]:
        return {**ENVIRONMENT, "HOME": str(self.directory), **(extra or {})}

    def cli(self, *arguments: str, timeout_s: float = 120, env: Optional[Mapping[str, str]] = None) -> subprocess.CompletedProcess[bytes]:
        """Run one command of the CLI to its end."""
        return subprocess.run(
            self._argv(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env=self._environment(env),
        )

    def json(self, *arguments: str, **options: Any) -> Any:
        """Run one command with --json and return what it printed."""
        done = self.cli(*arguments, "--json", **options)
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise AssertionError("no JSON, rc %d: %r %s" % (done.returncode, done.stdout[:500], done.stderr.decode()[-2000:])) from None

    def start(self, *, env: Optional[Mapping[str, str]] = None, arguments: tuple[str, ...] = ("run",), wait_s: float = 20.0) -> None:
        """Start the daemon and wait until it says it is ready (WAIT_S 0: do not wait)."""
        if self.process is not None:
            raise AssertionError("it runs already")
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                self._argv(*arguments), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment(env)
            )
        if wait_s:
            self.wait_ready(wait_s)

    def wait_ready(self, timeout_s: float = 20.0) -> None:
        """The status socket is there: discovery and queue are up."""
        deadline = time.monotonic() + timeout_s
        while not (self.state_dir / "status.sock").exists():
            if self.process is None or self.process.poll() is not None:
                raise AssertionError("the daemon ended at start:\n" + self.log())
            if time.monotonic() > deadline:
                raise AssertionError("not ready within %g s:\n%s" % (timeout_s, self.log()))
            time.sleep(0.02)

    def status(self) -> Any:
        return self.json("status")

    def signal(self, number: int) -> None:
        if self.process is None:
            raise AssertionError("it does not run")
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, as the OOM killer would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            # A dead daemon leaves its socket; the next start has to show a new one.
            with contextlib.suppress(FileNotFoundError):
                (self.state_dir / "status.sock").unlink()

    def terminate(self, timeout_s: float = 15.0) -> int:
        """SIGTERM; return the exit code. Raises AssertionError when it does not leave in time."""
        if self.process is None:
            raise AssertionError("it does not run")
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError("still running %g s after SIGTERM:\n%s" % (timeout_s, self.log())) from None
        finally:
            if self.process.poll() is not None:
                self.process = None

    def log(self) -> str:
        try:
            return self.log_file.read_text(errors="replace")[-8000:]
        except FileNotFoundError:
            return ""

    def cpu_s(self) -> float:
        """CPU seconds of the process so far, its reaped children included."""
        if self.process is None:
            raise AssertionError("it does not run")
        fields = Path("/proc/%d/stat" % self.process.pid).read_text().rsplit(")", 1)[1].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def rss_kib(self, what: str = "VmHWM") -> int:
        """Peak (VmHWM) or present (VmRSS) resident memory."""
        if self.process is None:
            raise AssertionError("it does not run")
        for line in Path("/proc/%d/status" % self.process.pid).read_text().splitlines():
            if line.startswith(what + ":"):
                return int(line.split()[1])
        raise AssertionError("no %s" % what)


@contextlib.contextmanager
def running(daemon: Daemon, **options: Any) -> Iterator[Daemon]:
    """Start DAEMON and kill it at the end, whatever happens; a failed test shows its log."""
    try:
        daemon.start(**options)
        yield daemon
    except BaseException:
        print(daemon.log())
        raise
    finally:
        daemon.kill()
