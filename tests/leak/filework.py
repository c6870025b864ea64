"""The leak runner's scenarios of files: each gets a folder and a count, on one loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import warnings
from collections.abc import Awaitable, Callable

from arshai_native import aiofiles, files
from arshai_native._core import run_blocking
from arshai_native.aiofiles import os as aios
from arshai_native.aiofiles import tempfile as aiotempfile
from arshai_native.config import AsyncConfigLoader, AsyncConfigManager

Work = Callable[[str, int], Awaitable[None]]
SCENARIOS: list[tuple[str, Work, int]] = []


def scenario(name: str, least: int = 50) -> Callable[[Work], Work]:
    def register(function: Work) -> Work:
        SCENARIOS.append((name, function, least))
        return function

    return register


def _file(folder: str, name: str, data: bytes) -> str:
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        with open(path, "wb") as f:
            f.write(data)
    return path


@scenario("files: opened, read, closed")
async def read(folder: str, count: int) -> None:
    path = _file(folder, "small", b"some lines\n" * 300)
    for _ in range(count // 3):
        async with aiofiles.open(path, "rb") as f:
            await f.read()
        async with aiofiles.open(path) as f:
            await f.read(10)
            await f.read()
        with contextlib.suppress(OSError):
            await aiofiles.open(path + "/no")


@scenario("files: lines, places", least=20)
async def lines(folder: str, count: int) -> None:
    path = _file(folder, "lines", ("a line, é\n" * 3000 + "\r\n").encode() * 3)
    for i in range(count // 10):
        for mode in ("r", "rb"):
            async with aiofiles.open(path, mode) as f:
                async for _ in f:
                    if i % 2:
                        break
                await f.readline(3)
                place = await f.tell()
                await f.seek(0)
                await f.readlines(5000)
                await f.seek(place)
                await f.readlines()


@scenario("files: written")
async def written(folder: str, count: int) -> None:
    for i in range(count // 2):
        async with aiofiles.open(os.path.join(folder, "w"), "w") as f:
            await f.write("é" * 1000)
            await f.writelines(["x"] * 10)
            await f.write("y" * (100000 if i % 4 == 0 else 10))
            await f.flush()
            await f.truncate(5)
    async with aiofiles.open("/dev/full", "wb") as f:
        for _ in range(count // 2):
            await f.write(b"x")
            with contextlib.suppress(OSError):
                await f.flush()
        with contextlib.suppress(OSError):
            await f.close()


@scenario("files: large, cancelled", least=10)
async def cancelled(folder: str, count: int) -> None:
    path = _file(folder, "large", bytes(3 << 20))
    for i in range(count):
        async with aiofiles.open(path, "rb") as f:
            tasks = [asyncio.create_task(f.read(1 << 20)) for _ in range(3)]
            await asyncio.sleep(0)
            tasks[i % 3].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        task = asyncio.create_task(aiofiles.open(path).__aenter__())
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await task).close()


@scenario("files: taken over by io objects", least=20)
async def slow(folder: str, count: int) -> None:
    path = _file(folder, "slow", b"text\r\nmore\n" * 1000)
    for _ in range(count // 4):
        f = await aiofiles.open(path)
        await f.readline()
        for wrong in (f.write("x"), f.read({}), f.seek(3, 1)):
            with contextlib.suppress(OSError, TypeError):
                await wrong
        await f.readline()
        await f.close()
        with contextlib.suppress(ValueError):
            await f.read()
        async with aiofiles.open(path, "r+b") as f:
            await f.read(5)
            await f.peek()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            f = await aiofiles.open(path)
            _ = f.buffer
            del f
            f = await aiofiles.open(path)
            f.readline().close()
            del f


@scenario("callables on workers")
async def callables(folder: str, count: int) -> None:
    async def given_up() -> None:
        task = asyncio.ensure_future(run_blocking(bytearray, 100000))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    for i in range(count // 4):
        await run_blocking(dict, a=i)
        with contextlib.suppress(ValueError):
            await run_blocking(int, "x")
        await asyncio.gather(*(run_blocking(list, (i,)) for _ in range(2)), given_up())


@scenario("files: whole, copied, walked")
async def whole(folder: str, count: int) -> None:
    path = os.path.join(folder, "whole")
    for i in range(count // 6):
        await files.write_json(path, ["some", i, {}], atomic=True, fsync=i % 8 == 0)
        await files.read_json(path, parse_int=str)
        await files.write_text(path, "text" * 1000)
        await files.write_bytes(path, b"bytes" * 1000)
        await asyncio.gather(files.read_text(path), files.read_bytes(path))
        await files.copyfile(path, path + "-copy", progress=lambda state: None)
        for wrong in (
            files.read_bytes(path + "/no"),
            files.write_bytes(path + "/no", b"", atomic=True),
            files.write_bytes("/dev/full", b"x", atomic=True),
            files.write_bytes("/dev/full", b"x"),
            files.write_bytes(path + "/no", b""),
            files.write_text(path, "\udc80", "ascii"),
            files.write_json(path, object()),
            files.copyfile(path, path),
            files.copyfile(path, path + "-copy", progress=lambda state: 1 // 0),
        ):
            with contextlib.suppress(OSError, TypeError, ValueError, ZeroDivisionError):
                await wrong
        await files.scandir(folder, stat=True)
        await files.walk(folder)


@scenario("files: whole, cancelled")
async def whole_cancelled(folder: str, count: int) -> None:
    path = _file(folder, "large-whole", bytes(1 << 20))
    tree = os.path.join(folder, "tree")
    for i in range(count // 5):
        tasks = [
            asyncio.ensure_future(call)
            for call in (
                files.read_bytes(path),
                files.write_bytes(path + "-w", bytes(1 << 20), atomic=True),
                files.write_bytes(path + "-v", bytes(1 << 20)),
                files.copyfile(path, path + "-copy", progress=lambda state: None),
                files.copytree(folder, tree, ignore=lambda top, names: names[1:]),
                aios.scandir(folder),
            )
        ]
        for _ in range(i % 40):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await run_blocking(shutil.rmtree, tree, ignore_errors=True)


@scenario("files: temporary, os")
async def temporary(folder: str, count: int) -> None:
    for _ in range(count // 5):
        async with aiotempfile.NamedTemporaryFile("w+", dir=folder) as f:
            await f.write("text")
        async with aiotempfile.SpooledTemporaryFile(5, dir=folder) as f:
            await f.write(b"1234")
            await f.writelines([b"5678"])
            await f.seek(0)
            await f.read()
        async with aiotempfile.TemporaryDirectory(dir=folder) as name:
            await aios.mkdir(os.path.join(name, "x"))
            await aios.listdir(name)
        with contextlib.suppress(OSError):
            await aios.stat(os.path.join(folder, "no"))
        with contextlib.suppress(OSError):
            await aiotempfile.TemporaryFile(dir=os.path.join(folder, "no"))


@scenario("configuration")
async def configuration(folder: str, count: int) -> None:
    good = _file(folder, "good.yaml", b"llm: {model: x}\n")
    bad = _file(folder, "bad.yaml", b"llm: [\n")
    for _ in range(count // 4):
        loader = await AsyncConfigLoader(good, env_prefix="HO")
        loader.get("llm.model")
        manager = await AsyncConfigManager(good, configure_logging=False)
        manager.set("llm.other", 1)
        await manager.load_from_file(good)
        with contextlib.suppress(ValueError):
            await AsyncConfigLoader(bad)
