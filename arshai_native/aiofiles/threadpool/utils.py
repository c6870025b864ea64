"""Makers of methods that call those of the file behind: aiofiles.threadpool.utils."""

from collections.abc import Callable
from functools import partial
from typing import Any

from arshai_native._core import file_members, run_blocking

Decorator = Callable[[type], type]


# What all files have.
_COMMON = (
    "close", "flush", "isatty", "read", "readline", "readlines", "seek", "seekable", "tell",
    "truncate", "writable", "write", "writelines", "fileno", "readable", "closed", "name", "mode",
)  # fmt: skip


def members_of_file(*attrs: str) -> Decorator:
    """Methods and attributes of native files: those that all have, and these."""
    return _adder((*_COMMON, *attrs), file_members.__getitem__)


def delegate_to_executor(*attrs: str) -> Decorator:
    return _adder(attrs, _make_delegate_method)


def proxy_method_directly(*attrs: str) -> Decorator:
    return _adder(attrs, _make_proxy_method)


def proxy_property_directly(*attrs: str) -> Decorator:
    return _adder(attrs, _make_proxy_property)


def cond_delegate_to_executor(*attrs: str) -> Decorator:
    return _adder(attrs, _make_cond_delegate_method)


def _adder(attrs: tuple[str, ...], make: Callable[[str], Any]) -> Decorator:
    def cls_builder(cls: type) -> type:
        for name in attrs:
            setattr(cls, name, make(name))
        return cls

    return cls_builder


async def _call(self: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    call = partial(getattr(self._file, name), *args, **kwargs)
    if self._executor is None:
        return await run_blocking(call)
    return await self._loop.run_in_executor(self._executor, call)


def _make_delegate_method(attr_name: str) -> Any:
    async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await _call(self, attr_name, args, kwargs)

    return method


def _make_proxy_method(attr_name: str) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._file, attr_name)(*args, **kwargs)

    return method


def _make_proxy_property(attr_name: str) -> Any:
    return property(lambda self: getattr(self._file, attr_name))


def _make_cond_delegate_method(attr_name: str) -> Any:
    """For spooled temporary files: as long as they are in memory there is nothing to wait for."""

    async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self._file._rolled:
            return await _call(self, attr_name, args, kwargs)
        return getattr(self._file, attr_name)(*args, **kwargs)

    return method
