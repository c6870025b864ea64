"""
Configuration files without blocking: asynchronous twins of arshai.config's loader and manager.

    from arshai_native.config import AsyncConfigLoader, AsyncConfigManager, load_config

    settings = await load_config("app.yaml")
    loader = await AsyncConfigLoader("app.yaml", env_prefix="APP_")
    model = loader.get("llm.model", "gpt-4o")

Results, errors and defaults are arshai's. Files are read and parsed on a worker thread. What arshai
has not is env_prefix: with it, environment variables go before the file. With the prefix "APP_",
APP_LLM__MODEL=gpt-4o is `llm.model`: names in lower case, or as the file writes them, levels parted
by two underscores; values are JSON where they are JSON, text otherwise.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from arshai_native._core import run_blocking

__all__ = ["AsyncConfigLoader", "AsyncConfigManager", "load_config"]

logger = logging.getLogger("arshai_native.config")

_Values = dict[str, Any]


# ---- the environment ----


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError:
        return text


def _overrides(prefix: str | None) -> dict[tuple[str, ...], Any]:
    """What the environment says, by path."""
    if prefix is None:
        return {}
    if not prefix:
        raise ValueError("env_prefix must not be empty: every variable would be configuration")
    found = {}
    for name, text in sorted(os.environ.items()):
        path = tuple(name[len(prefix) :].lower().split("__"))
        if name.startswith(prefix) and all(path):
            found[path] = _value(text)
    return found


def _apply(config: _Values, overrides: Mapping[tuple[str, ...], Any]) -> None:
    for path, value in overrides.items():
        current = config
        for part in path[:-1]:
            key = _key(current, part)
            if not isinstance(current.get(key), dict):
                current[key] = {}
            current = current[key]
        current[_key(current, path[-1])] = value


def _key(config: _Values, name: str) -> Any:
    """The key as the configuration writes it."""
    return next((key for key in config if isinstance(key, str) and key.lower() == name), name)


# ---- the loader ----


def _yaml() -> Any:
    try:
        import yaml
    except ImportError:
        raise ImportError(
            "PyYAML is required for configuration loading. Install with: pip install PyYAML"
        ) from None
    return yaml


def _load(config_path: str, overrides: Mapping[tuple[str, ...], Any]) -> _Values:
    yaml = _yaml()
    config_file = Path(config_path)
    if not config_file.exists():
        logger.debug("Configuration file not found: %s", config_path)
        content = {}
    else:
        try:
            with open(config_file, encoding="utf-8") as file:
                content = yaml.safe_load(file)
            if content is None:
                logger.debug("Configuration file is empty: %s", config_path)
                content = {}
            if not isinstance(content, dict):
                raise ValueError(
                    f"Configuration file must contain a YAML object (dict), got {type(content)}"
                )
            logger.debug("Loaded configuration from: %s", config_path)
        except yaml.YAMLError as error:
            raise ValueError(
                f"Invalid YAML in configuration file {config_path}: {error}"
            ) from error
        except Exception as error:
            raise ValueError(f"Error reading configuration file {config_path}: {error}") from error
    _apply(content, overrides)
    return content


async def load_config(config_path: str, *, env_prefix: str | None = None) -> _Values:
    """
    The configuration in a YAML file; {} if there is no such file or nothing is in it.

    ImportError without PyYAML; ValueError for what cannot be read or is no YAML mapping.
    """
    return await run_blocking(_load, config_path, _overrides(env_prefix))


class _Loaded:
    """Values by dotted paths, once awaited."""

    _values: _Values | None = None

    @property
    def _config(self) -> _Values:
        if self._values is None:
            raise RuntimeError(f"nothing is loaded yet: await {type(self).__name__}(...)")
        return self._values

    def get(self, key: str, default: Any = None) -> Any:
        """The value at a path as "llm.model", or the default."""
        current: Any = self._config
        try:
            for part in key.split("."):
                current = current[part]
            return current
        except (KeyError, TypeError):
            return default

    def get_all(self) -> _Values:
        """All of it: a copy of the topmost level."""
        return self._config.copy()


class AsyncConfigLoader(_Loaded):
    """
    arshai's ConfigLoader, to be awaited before use: `loader = await AsyncConfigLoader(path)`.

    Awaited again, it loads the file anew; after an error it has what it had before.
    """

    def __init__(self, config_path: str, *, env_prefix: str | None = None) -> None:
        self.config_path = config_path
        self._env_prefix = env_prefix

    def __await__(self) -> Generator[Any, Any, AsyncConfigLoader]:
        return self._load().__await__()

    async def _load(self) -> AsyncConfigLoader:
        self._values = await load_config(self.config_path, env_prefix=self._env_prefix)
        if self._values:
            logger.info(
                "ConfigLoader initialized with %d configuration sections", len(self._values)
            )
        else:
            logger.debug("ConfigLoader initialized with empty configuration")
        return self

    def get_section(self, section: str) -> Any:
        """A value of the topmost level; {} if it is not there."""
        return self._config.get(section, {})

    def has_key(self, key: str) -> bool:
        """True for every key, as arshai's is: get(key, default) tells them apart."""
        self.get(key)
        return True


# ---- the manager ----


def _defaults() -> _Values:
    return {
        "llm": {
            "provider": "openai",
            "model": "gpt-4",
            "temperature": 0.7,
            "max_tokens": 1000,
        },
        "memory": {
            "working_memory": {
                "provider": "in_memory",
                "ttl": 43200,
            }
        },
        "logging": {
            "level": "INFO",
            "format": "%(asctime)s - %(name)s - %(levelname)s - %(message)s",
            "log_dir": None,
        },
    }


def _update(current: _Values, new: Mapping[Any, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and key in current and isinstance(current[key], dict):
            _update(current[key], value)
        else:
            current[key] = value


def _read(config_path: str) -> Any:
    """What is in the file. None: nothing to be merged, and that has been said."""
    path = Path(config_path)
    if not path.exists():
        logger.warning("Configuration file not found: %s", config_path)
        return None
    kind = path.suffix.lower()
    if kind not in (".yml", ".yaml", ".json"):
        logger.warning("Unsupported configuration file format: %s", path.suffix)
        return None
    parse = json.load if kind == ".json" else _yaml().safe_load
    try:
        with open(path) as file:  # in the locale's encoding, as arshai does
            content = parse(file)
        if not hasattr(content, "items"):
            raise AttributeError(f"'{type(content).__name__}' object has no attribute 'items'")
        return content
    except Exception as error:
        logger.error("Error loading configuration from %s: %s", config_path, error)
        return None


class AsyncConfigManager(_Loaded):
    """
    arshai's ConfigManager, to be awaited before use: `manager = await AsyncConfigManager(path)`.

    A file that cannot be used is logged, and the defaults stay. Where arshai is installed, its
    logging is configured by what was loaded, as its own manager does, unless configure_logging is
    False.
    """

    def __init__(
        self,
        config_path: str | None = None,
        *,
        env_prefix: str | None = None,
        configure_logging: bool = True,
    ) -> None:
        self._config_path = config_path
        self._env_prefix = env_prefix
        self._configures = configure_logging

    def __await__(self) -> Generator[Any, Any, AsyncConfigManager]:
        return self._load().__await__()

    async def _load(self) -> AsyncConfigManager:
        self._values = await run_blocking(
            self._made, self._config_path, _overrides(self._env_prefix)
        )
        return self

    def _made(self, config_path: str | None, overrides: Mapping[tuple[str, ...], Any]) -> _Values:
        config = _defaults()
        content = _read(config_path) if config_path else None
        if content is not None:
            _update(config, content)
            logger.info("Loaded configuration from %s", config_path)
        _apply(config, overrides)
        if self._configures:
            _configure_logging(config.get("logging", {}))
        return config

    async def load_from_file(self, config_path: str) -> None:
        """Merges a file (.yaml, .yml, .json) into what there is. The environment stays first."""
        config = self._config
        content = await run_blocking(_read, config_path)
        if content is not None:
            # Here: the configuration belongs to the thread that uses it.
            _update(config, content)
            _apply(config, _overrides(self._env_prefix))
            logger.info("Loaded configuration from %s", config_path)

    def set(self, path: str, value: Any) -> None:
        """Sets the value at a path, with the levels that are missing."""
        *parents, last = path.split(".")
        current = self._config
        for part in parents:
            if part not in current:
                current[part] = {}
            current = current[part]
        current[last] = value


def _configure_logging(settings: Any) -> None:
    wanted = {
        "level": settings.get("level"),
        "format_str": settings.get("format"),
        "config_file": settings.get("config_file"),
        "log_dir": settings.get("log_dir"),
    }
    if importlib.util.find_spec("arshai") is not None:
        from arshai.utils.logging import configure_logging

        configure_logging(**wanted)
