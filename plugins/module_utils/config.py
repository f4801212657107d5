# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The configuration: one declaration per key, one loader, errors that name the key and the cure.

The file is YAML (JSON is YAML too, and needs no third-party package). Sources of the keys and of
the environment names: design.md "Interfaces that stay fixed".
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import reprlib
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable, Mapping, Optional, Union
from urllib.parse import SplitResult, unquote, urlsplit

from .errors import ConfigError, shown
from .model import RUNTIMES

CLOUD_URL = "https://ingest.clawmetry.com"
SYSTEM_CONFIG = "/etc/clawmetry/clawmetry.yml"
USER_CONFIG = "~/.config/clawmetry/clawmetry.yml"
ROUTES = ("proc", "volume", "archive", "exec")
MAX_CONFIG_BYTES = 1 << 20
MAX_QUEUE_BYTES = 1 << 50
MAX_NODE_ID = 255
ENVIRONMENT = "the environment"


@dataclass(frozen=True)
class Settings:
    """The checked configuration; every path absolute, every duration in seconds, every size in bytes."""

    path: Optional[str] = None
    node_id: Optional[str] = None
    ingest_url: str = ""
    api_key_file: Optional[str] = None
    encryption_key_file: str = ""
    state_dir: str = ""
    ca_file: Optional[str] = None
    proxy: Optional[str] = None
    discover: tuple[str, ...] = RUNTIMES
    docker_host: str = "unix:///var/run/docker.sock"
    homes: Union[str, tuple[str, ...]] = "auto"
    routes: tuple[str, ...] = ("proc", "volume", "archive")
    poll_interval: float = 1.0
    snapshot_interval: float = 60.0
    queue_max_bytes: int = 268435456
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    only: Optional[str] = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_archive(self) -> bool:
        return self.ingest_url.startswith("file:")

    @property
    def archive_dir(self) -> str:
        """The directory of the local archive: of the file: URL, or its default place."""
        if self.is_archive:
            return unquote(urlsplit(self.ingest_url).path)
        return os.path.join(self.state_dir, "archive")

    @property
    def discovery(self) -> dict[str, Any]:
        """What discover() has to know, as its keyword arguments."""
        return {
            "enabled": self.discover,
            "docker_host": self.docker_host,
            "homes": self.homes if self.homes == "auto" else list(self.homes),
            "include": self.include,
            "exclude": self.exclude,
            "only": self.only,
            "env": dict(self.environment),
            "may_exec": "exec" in self.routes,
        }

    @property
    def queue_path(self) -> str:
        return os.path.join(self.state_dir, "queue.db")

    @property
    def socket_path(self) -> str:
        return os.path.join(self.state_dir, "status.sock")


def _given(value: Any) -> str:
    """Say what was found instead. A few aliases can stand for a billion items, so only the first of a list are shown."""
    return "it is %s" % shown(repr(value) if isinstance(value, str) else reprlib.repr(value))


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value or "\n" in value:
        raise ConfigError("%s must be a non-empty text" % key, cause=_given(value))
    return value.strip()


def _node_id(key: str, value: Any) -> str:
    text = _text(key, value)
    if not text.isprintable() or len(text) > MAX_NODE_ID:
        raise ConfigError("%s must be printable text of at most %d characters" % (key, MAX_NODE_ID), cause=_given(value))
    return text


def _path(key: str, value: Any) -> str:
    path = os.path.expanduser(_text(key, value))
    if not os.path.isabs(path):
        raise ConfigError("%s must be an absolute path" % key, cause="it is %s" % shown(path))
    return os.path.normpath(path)


def _number(low: float, high: float) -> Callable[[str, Any], float]:
    def check(key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ConfigError("%s must be a number from %g to %g" % (key, low, high), cause=_given(value))
        return float(value)

    return check


def _size(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 << 20 <= value <= MAX_QUEUE_BYTES:
        raise ConfigError("%s must be a whole number of bytes from 1048576 to %d" % (key, MAX_QUEUE_BYTES), cause=_given(value))
    return value


def _strings(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) and item for item in value):
        raise ConfigError("%s must be a list of texts" % key, cause=_given(value))
    return tuple(value)


def _subset(allowed: tuple[str, ...]) -> Callable[[str, Any], tuple[str, ...]]:
    def check(key: str, value: Any) -> tuple[str, ...]:
        chosen = _strings(key, value)
        for item in chosen:
            if item not in allowed:
                near = difflib.get_close_matches(item, allowed, 1)
                hint = " (did you mean %s?)" % near[0] if near else ""
                raise ConfigError("%s: %s is none of %s%s" % (key, shown(item), ", ".join(allowed), hint))
        return tuple(item for item in allowed if item in chosen)

    return check


def _homes(key: str, value: Any) -> Union[str, tuple[str, ...]]:
    if value == "auto":
        return "auto"
    return tuple(_path(key, item) for item in _strings(key, value))


def _selection(key: str, value: Any) -> Mapping[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise ConfigError("%s must be a mapping with include and exclude" % key, cause=_given(value))
    _refuse_unknown(value, ("include", "exclude"), key + ".")
    return {name: _strings("%s.%s" % (key, name), patterns) for name, patterns in value.items() if patterns is not None}


def check_url(key: str, value: Any) -> str:
    """Return an ingest URL without its trailing slash; https, http to a loopback address only, or file:///absolute."""
    url = _text(key, value).rstrip("/")
    parts = _url_parts(key, url)
    host = parts.hostname or ""
    if parts.username or parts.password:
        raise ConfigError("%s must not carry a user name or password" % key, next_step="put the key in api_key_file")
    if parts.query or parts.fragment:
        raise ConfigError("%s must not have a query or fragment" % key)
    url = parts.scheme + url[len(parts.scheme) :]  # a scheme may be written in capitals
    if parts.scheme == "https" and host:
        return url
    if parts.scheme == "http" and host:
        if _is_loopback(host):
            return url
        raise ConfigError("%s: http:// is only for a loopback address" % key, cause="host is %s" % shown(host), next_step="use https://")
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/") and "\0" not in unquote(parts.path):
        return url
    raise ConfigError("%s must be https://host, file:///directory, or http:// to loopback" % key, cause="it is %s" % shown(url))


def _url_parts(key: str, url: str) -> SplitResult:
    """Return the parts of a URL. Raises ConfigError, which does not show it: a proxy's may carry a password."""
    try:
        if not all("!" <= letter <= "~" for letter in url):
            raise ValueError("a space, a control character or a letter beyond ASCII in it")
        parts = urlsplit(url)
        if parts.port == 0:
            raise ValueError("port 0")
    except ValueError as exc:
        raise ConfigError("%s is not a URL" % key, cause=str(exc)) from None
    return parts


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _proxy(key: str, value: Any) -> str:
    url = _text(key, value)
    parts = _url_parts(key, url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("%s must be http://host:port or https://host:port" % key)
    return url


def _docker_host(key: str, value: Any) -> str:
    url = _text(key, value)
    if not url.startswith("unix:///"):
        raise ConfigError("%s must be unix:///path of a socket" % key, cause="it is %s" % shown(url))
    return url


_KEYS: dict[str, Callable[[str, Any], Any]] = {
    "node_id": _node_id,
    "ingest_url": check_url,
    "api_key_file": _path,
    "encryption_key_file": _path,
    "state_dir": _path,
    "ca_file": _path,
    "proxy": _proxy,
    "discover": _subset(RUNTIMES),
    "docker_host": _docker_host,
    "homes": _homes,
    "routes": _subset(ROUTES),
    "poll_interval": _number(0.05, 3600),
    "snapshot_interval": _number(1, 86400),
    "queue_max_bytes": _size,
    "sandboxes": _selection,
}


def _refuse_unknown(found: Mapping[Any, Any], known: Any, prefix: str = "") -> None:
    for key in found:
        if key not in known:
            near = difflib.get_close_matches(str(key), list(known), 1, 0.0)
            raise ConfigError("unknown key %s%s" % (prefix, shown(str(key))), next_step="did you mean %s%s?" % (prefix, near[0]))


def _once(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Return a mapping of PAIRS. Raises ConfigError when a key is there twice: nobody can tell which one was meant."""
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ConfigError("the key %s is there twice" % shown(str(key)), next_step="keep one of them")
        found[key] = value
    return found


def parse(text: bytes) -> dict[str, Any]:
    """Return the mapping a configuration file holds. Raises ConfigError, with the line as its place where there is one."""
    document: Any
    try:
        document = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        document = _yaml(text)
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError("the configuration must be a mapping of keys", cause="it is a %s" % type(document).__name__)
    return document


def _yaml(text: bytes) -> Any:
    try:
        import yaml
    except ImportError as exc:
        raise ConfigError("this Python has no PyYAML to read the configuration with", next_step="run the installed clawmetry") from exc
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        for node in (root, *(value for _key, value in root.value)) if isinstance(root, yaml.MappingNode) else ():
            if isinstance(node, yaml.MappingNode):
                _once((key.value, None) for key, _value in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<")
        return yaml.safe_load(text)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        place = "line %d, column %d" % (mark.line + 1, mark.column + 1) if mark is not None else ""
        cause = str(getattr(exc, "problem", "") or getattr(exc, "reason", "") or "")
        raise ConfigError("the configuration is not YAML", where=place, cause=cause) from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as exc:
        # PyYAML lets these through: a date of month 13, !!int of nothing, lists ten thousand deep.
        raise ConfigError("the configuration is not YAML", cause=shown(str(exc) or type(exc).__name__)) from None


def default_path(explicit: Optional[str] = None) -> Optional[str]:
    """Return the configuration file to use: EXPLICIT, the system's, the user's, or None when there is none."""
    if explicit is not None:
        return explicit
    for candidate in (SYSTEM_CONFIG, os.path.expanduser(USER_CONFIG)):
        if os.path.lexists(candidate):
            return candidate
    return None


def load(explicit: Optional[str] = None, env: Optional[Mapping[str, str]] = None) -> Settings:
    """Return the checked settings of a file (or the defaults where there is none). Raises ConfigError."""
    env = os.environ if env is None else env
    path = default_path(explicit)
    raw: dict[str, Any] = {}
    if path is not None:
        try:
            with open(path, "rb") as stream:
                text = stream.read(MAX_CONFIG_BYTES + 1)
        except OSError as exc:
            step = "give the file that --config names, or leave --config out" if explicit is not None else "run this as root"
            cause = os.strerror(exc.errno or 0)
            raise ConfigError("cannot read the configuration", where=shown(path), cause=cause, next_step=step) from exc
        if len(text) > MAX_CONFIG_BYTES:
            raise ConfigError("the configuration is larger than 1 MiB", where=shown(path))
        try:
            raw = parse(text)
            return build(raw, env, path)
        except ConfigError as exc:
            if exc.where != ENVIRONMENT:
                exc.where = shown(path) + (", " + exc.where if exc.where else "")
            raise
    return build(raw, env, None)


def etc_dir(path: Optional[str]) -> str:
    """Return where the keys are unless told otherwise: the system's directory, or the user's for the user's own file at PATH."""
    system = path == SYSTEM_CONFIG or (os.geteuid() == 0 and path != os.path.expanduser(USER_CONFIG))
    return os.path.dirname(SYSTEM_CONFIG if system else os.path.expanduser(USER_CONFIG))


def build(raw: Mapping[str, Any], env: Mapping[str, str], path: Optional[str]) -> Settings:
    """Return the settings for a parsed mapping and an environment. Raises ConfigError."""
    _refuse_unknown(raw, _KEYS)
    values = {key: _KEYS[key](key, value) for key, value in raw.items() if value is not None}
    etc = etc_dir(path)
    var = "/var/lib/clawmetry" if etc == os.path.dirname(SYSTEM_CONFIG) else os.path.expanduser("~/.local/state/clawmetry")
    values.setdefault("state_dir", var)
    values.setdefault("encryption_key_file", os.path.join(etc, "encryption_key"))
    usual_api_key = os.path.join(etc, "api_key")
    if "api_key_file" not in values and os.path.lexists(usual_api_key):
        values["api_key_file"] = usual_api_key
    selection = values.pop("sandboxes", {})
    try:
        if env.get("CLAWMETRY_NODE_ID"):
            values["node_id"] = _node_id("CLAWMETRY_NODE_ID", env["CLAWMETRY_NODE_ID"])
        for name in ("CLAWMETRY_ENDPOINT", "CLAWMETRY_INGEST_URL"):
            if env.get(name):
                values["ingest_url"] = check_url(name, env[name])
                break
    except ConfigError as exc:
        exc.where = ENVIRONMENT
        raise
    archive = "file://" + os.path.join(values["state_dir"], "archive")
    has_key = bool(values.get("api_key_file") or env.get("CLAWMETRY_API_KEY", "").strip() or credential(env, "api_key"))
    values.setdefault("ingest_url", CLOUD_URL if has_key else archive)
    may_upload = env.get("CLAWMETRY_NO_CLOUD", "").strip().lower() in ("", "0", "false", "no", "off")
    if not may_upload and not values["ingest_url"].startswith("file:"):
        values["ingest_url"] = archive
    return Settings(
        path=path,
        include=selection.get("include", ("*",)),
        exclude=selection.get("exclude", ()),
        only=env.get("NEMOCLAW_SANDBOX") or None,
        environment={key: env[key] for key in ("OPENCLAW_HOME", "OPENCLAW_STATE_DIR", "OPENCLAW_PROFILE") if env.get(key)},
        **values,
    )


def credential(env: Mapping[str, str], name: str) -> Optional[str]:
    """Return the path of a credential systemd handed to the service, None when there is none."""
    directory = env.get("CREDENTIALS_DIRECTORY")
    if not directory or not os.path.isabs(directory):
        return None
    path = os.path.join(directory, name)
    return path if os.path.isfile(path) else None
