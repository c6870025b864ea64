"""Files that several use, calls that are given up, loops, processes and interpreters that end."""

import asyncio
import contextlib
import gc
import os
import pathlib
import resource
import threading
import time
import warnings

import pytest
import uvloop
from filekit import path_with, script

from arshai_native import _core, aiofiles

pytest_plugins = ("filefixtures",)

# ---- two tasks, and those that go ----


@pytest.mark.parametrize("mode", ["r", "rb"])
def test_two_tasks_on_one_file(on_loop, tmp_path, mode):
    async def main():
        lines = [b"%06d %s\n" % (i, b"x" * (i % 3000)) for i in range(3000)]
        path = path_with(tmp_path, b"".join(lines))
        got = []
        async with aiofiles.open(path, mode) as f:

            async def reader():
                async for line in f:
                    got.append(line)

            await asyncio.gather(*(reader() for _ in range(7)))
        assert sorted(got) == [line if mode == "rb" else line.decode() for line in lines]
        async with aiofiles.open(path, mode) as f:
            size = sum(map(len, lines))
            parts = await asyncio.gather(*(f.read(size // 50) for _ in range(51)))
            whole = b"".join(lines) if mode == "rb" else b"".join(lines).decode()
            assert whole[:0].join(parts) == whole

    on_loop(main())


def test_writes_are_in_the_order_of_their_calls(on_loop, tmp_path):
    async def main():
        path = str(tmp_path / "w")
        async with aiofiles.open(path, "wb") as f:
            pieces = [bytes([i % 256]) * (i * 1000 % 90000) for i in range(200)]
            done = await asyncio.gather(*(f.write(p) for p in pieces), f.flush(), f.tell())
        assert done[:200] == [len(p) for p in pieces] and done[201] == sum(map(len, pieces))
        assert pathlib.Path(path).read_bytes() == b"".join(pieces)

    on_loop(main())


def test_a_cancelled_read_loses_nothing(on_loop, tmp_path):
    async def main():
        data = os.urandom(8 << 20)
        path = path_with(tmp_path, data)
        async with aiofiles.open(path, "rb") as f:
            place = 0
            for i in range(60):
                task = asyncio.create_task(f.read(500000 + i) if i % 3 else f.readline())
                await asyncio.sleep(0)
                if i % 2:
                    await asyncio.sleep(0.0002)
                task.cancel()
                try:
                    got = await task
                except asyncio.CancelledError:
                    continue
                assert got == data[place : place + len(got)]
                place += len(got)
            assert await f.tell() == place
            assert await f.read() == data[place:]

    on_loop(main())


def test_a_cancelled_write_is_whole_or_not_there(on_loop, tmp_path):
    async def main():
        path = str(tmp_path / "w")
        async with aiofiles.open(path, "wb") as f:
            await f.write(b"a" * 1000)
            writes = [asyncio.create_task(f.write(b"b" * 300000)) for _ in range(20)]
            await asyncio.sleep(0)
            for task in writes[::2]:
                task.cancel()
            results = await asyncio.gather(*writes, return_exceptions=True)
            await f.write(b"c")
        assert {r for r in results if isinstance(r, int)} == {300000}
        data = pathlib.Path(path).read_bytes()
        assert data[:1000] == b"a" * 1000 and data[-1:] == b"c"
        middle = data[1000:-1]
        assert middle == b"b" * len(middle) and len(middle) % 300000 == 0
        assert 10 * 300000 <= len(middle) <= 20 * 300000

    on_loop(main())


def test_a_cancelled_open_leaves_no_descriptor(on_loop, tmp_path):
    async def main():
        path = path_with(tmp_path, b"x" * 100000)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(200):
            task = asyncio.create_task(aiofiles.open(path).__aenter__())
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await (await task).close()
        for _ in range(100):
            await asyncio.sleep(0.01)
            if len(os.listdir("/proc/self/fd")) <= before + 4:  # the loop's own
                break
        assert len(os.listdir("/proc/self/fd")) <= before + 4

    on_loop(main())


def test_use_after_close(on_loop, tmp_path):
    async def main():
        path = path_with(tmp_path, b"x\n")
        for mode in ("r", "rb", "w", "wb"):
            f = await aiofiles.open(path, mode)
            await f.close()
            await f.close()
            assert f.closed and f.name == path
            with open(path, mode) as closed:
                pass
            calls = ["read", "readline", "readlines", "tell", "flush", "seekable", "isatty"]
            for name in calls:
                with pytest.raises(ValueError) as ours:
                    await getattr(f, name)()
                with pytest.raises(ValueError) as theirs:
                    getattr(closed, name)()
                assert str(ours.value) == str(theirs.value) and type(ours.value) is type(
                    theirs.value
                )
            if mode[0] == "r":
                with pytest.raises(ValueError, match="closed file"):
                    await anext(f)
            with pytest.raises(ValueError, match="closed file"):
                f.fileno()

    on_loop(main())


def test_closed_while_others_read(on_loop, tmp_path):
    async def main():
        path = path_with(tmp_path, os.urandom(4 << 20))
        f = await aiofiles.open(path, "rb")
        reads = [asyncio.create_task(f.read(1 << 20)) for _ in range(3)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(f.close())
        late = asyncio.create_task(f.read(1))
        assert [len(await r) for r in reads] == [1 << 20] * 3
        await closing
        with pytest.raises(ValueError, match="closed file"):
            await late

    on_loop(main())


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_loop_closed_with_work_under_way(tmp_path, kind):
    """The file goes on with the next loop, with what the first one's job has done."""
    data = os.urandom(48 << 20)
    path = path_with(tmp_path, data)
    new_loop = asyncio.new_event_loop if kind == "asyncio" else uvloop.new_event_loop
    for _ in range(5):
        loop = new_loop()
        f = loop.run_until_complete(aiofiles.open(path, "rb").__aenter__())
        w = loop.run_until_complete(aiofiles.open(str(tmp_path / "w"), "wb").__aenter__())
        tasks = [loop.create_task(c) for c in (f.read(40 << 20), f.read(3), w.write(data))]
        loop.run_until_complete(asyncio.sleep(0))
        for task in tasks:
            task._log_destroy_pending = False
        loop.close()
        del tasks, task, loop
        gc.collect()

        async def go_on(f=f, w=w):
            place = await f.tell()
            assert (await f.read(1000)) == data[place : place + 1000]
            await w.write(b"end")
            await asyncio.gather(f.close(), w.close())

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(go_on())
        written = (tmp_path / "w").read_bytes()
        assert written[-3:] == b"end" and written[:-3] in (b"", data)


@pytest.mark.parametrize("order", range(6))
def test_all_is_garbage_with_work_under_way(tmp_path, order):
    """In whatever order the collector comes to loop, request and file."""
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    data = path_with(tmp_path, os.urandom(32 << 20))

    new_loop = asyncio.new_event_loop if order % 2 else uvloop.new_event_loop

    async def opened():
        opening = asyncio.create_task(aiofiles.open(path, "rb").__aenter__())
        await asyncio.sleep(0.01)
        writer = os.open(path, os.O_WRONLY)
        return writer, await opening, await aiofiles.open(data, "rb")

    async def awaiting(request):
        return await request

    def once(number):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            writer, f, g = runner.run(opened())
        # Made before the loop that awaits them, or after it.
        requests = [f.read(1), f.read(1), g.read(30 << 20), g.readline()]
        loop = new_loop()
        requests += [f.readline(), g.read()]
        tasks = [loop.create_task(awaiting(r)) for r in requests[order % 3 :]]
        for task in tasks:
            task._log_destroy_pending = False
        f.circle = g.circle = f, g, requests, tasks, loop
        loop.run_until_complete(asyncio.sleep(0))
        if number % 2:
            for task in tasks[::2]:
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        return writer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(8):
            writer = once(number)
            gc.collect()
            with contextlib.suppress(BrokenPipeError):
                os.write(writer, b"xyz")
            os.close(writer)
            gc.collect()
    asyncio.run(_core.run_blocking(int))  # the workers have not been lost with it


def test_two_loops_share_a_file(tmp_path):
    lines = [b"%05d\n" % i for i in range(20000)]
    path = path_with(tmp_path, b"".join(lines))
    got, ready = [], threading.Barrier(3)
    f = asyncio.run(aiofiles.open(path, "rb").__aenter__())

    async def read():
        while line := await f.readline():
            got.append(line)
            if len(got) % 50 == 0:
                got.append(await f.read(6 * 100))
                await asyncio.sleep(0)

    def thread():
        ready.wait()
        asyncio.run(read())

    threads = [threading.Thread(target=thread) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    asyncio.run(f.close())
    assert b"".join(sorted(b"".join(got).splitlines(True))) == b"".join(lines)


# ---- many, and none left ----


def test_ten_thousand_files(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 10500:
        pytest.skip("the limit of descriptors is too low")
    path = path_with(tmp_path, b"line one\nline two\n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 10500), hard))

    async def main():
        files = await asyncio.gather(*(aiofiles.open(path) for _ in range(10000)))
        lines = await asyncio.gather(*(f.readline() for f in files))
        assert set(lines) == {"line one\n"}
        await asyncio.gather(*(f.close() for f in files))
        assert all(f.closed for f in files)

    try:
        asyncio.run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptors_left(tmp_path):
    done = script(
        """
        import asyncio, errno, resource, sys
        from arshai_native import aiofiles
        async def main():
            async with aiofiles.open(sys.argv[1]) as f:
                assert await f.read() == "x"
            resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
            files, failed = [], 0
            for one in await asyncio.gather(
                *(aiofiles.open(sys.argv[1]) for _ in range(100)), return_exceptions=True
            ):
                if isinstance(one, OSError):
                    assert one.errno == errno.EMFILE and one.filename == sys.argv[1], one
                    failed += 1
                else:
                    files.append(one)
            assert failed > 50 and len(files) > 10
            for f in files:
                assert await f.read() == "x"
                await f.close()
            async with aiofiles.open(sys.argv[1]) as f:
                assert await f.read() == "x"
        asyncio.run(main())
        """,
        path_with(tmp_path, b"x"),
    )
    assert done.returncode == 0, done.stderr


# ---- fork, end ----


def test_fork(tmp_path):
    data = os.urandom(1 << 20)
    done = script(
        """
        import asyncio, os, sys, warnings
        from arshai_native import aiofiles
        warnings.simplefilter("ignore")
        async def opened():
            f = await aiofiles.open(sys.argv[1], "rb")
            w = await aiofiles.open(sys.argv[2], "wb")
            await w.write(b"parent")
            await f.read(1000)
            return f, w
        async def work(f, own):
            assert len(await f.read(5000)) == 5000
            async with aiofiles.open(own, "w") as w:
                await w.write("x" * 100000)
            async with aiofiles.open(own) as r:
                assert await r.read() == "x" * 100000
            await f.close()
        f, w = asyncio.run(opened())
        child = os.fork()
        if child == 0:
            asyncio.run(work(f, sys.argv[1] + "c"))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        asyncio.run(work(f, sys.argv[1] + "p"))
        asyncio.run(w.close())
        assert open(sys.argv[2], "rb").read() == b"parent"
        """,
        path_with(tmp_path, data),
        str(tmp_path / "w"),
    )
    assert done.returncode == 0, done.stderr


def test_fork_while_at_work(tmp_path):
    done = script(
        """
        import asyncio, os, sys, warnings
        from arshai_native import _core, aiofiles
        warnings.simplefilter("ignore")
        async def main():
            f = await aiofiles.open(sys.argv[1], "rb")
            busy = [asyncio.create_task(f.read(1 << 20)) for _ in range(5)]
            blocked = [asyncio.create_task(aiofiles.open(sys.argv[2]).__aenter__())
                       for _ in range(3)]
            await asyncio.sleep(0)
            child = os.fork()
            if child == 0:
                from asyncio import events
                events._set_running_loop(None)
                async def own():
                    await f.seek(0)
                    assert len(await f.read(100)) == 100
                    assert await _core.run_blocking(len, "abc") == 3
                asyncio.run(own())
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            await asyncio.gather(*busy)
            for task in blocked:
                task.cancel()
        asyncio.run(main())
        # The opens of a pipe never end: neither does that hold up the exit.
        """,
        path_with(tmp_path, os.urandom(6 << 20)),
        (os.mkfifo(tmp_path / "fifo"), str(tmp_path / "fifo"))[1],
    )
    assert done.returncode == 0, done.stderr


def test_the_end_waits_for_what_has_begun(tmp_path):
    """But not for ever."""
    start = time.monotonic()
    done = script(
        """
        import asyncio, os, sys, time
        from arshai_native import _core, aiofiles
        async def main():
            asyncio.create_task(_core.run_blocking(lambda: (time.sleep(0.3), print("ended"))))
            asyncio.create_task(_core.run_blocking(os.read, os.pipe()[0], 1))
            await asyncio.sleep(0.05)
            print("main")
        asyncio.run(main())
        """
    )
    assert done.returncode == 0 and done.stdout.split() == ["main", "ended"], done.stderr
    assert time.monotonic() - start < 20


def test_signals_are_the_programs_own():
    done = script(
        """
        import asyncio, os, signal, threading
        from arshai_native import _core
        got = []
        signal.signal(signal.SIGUSR1, lambda *_: got.append(threading.get_ident()))
        async def main():
            work = [asyncio.create_task(_core.run_blocking(__import__("time").sleep, 0.2))
                    for _ in range(4)]
            await asyncio.sleep(0.02)
            for _ in range(20):
                os.kill(os.getpid(), signal.SIGUSR1)
                await asyncio.sleep(0.002)
            await asyncio.gather(*work)
        asyncio.run(main())
        assert got and set(got) == {threading.main_thread().ident}
        """
    )
    assert done.returncode == 0, done.stderr


def test_after_a_shutdown_work_goes_on(tmp_path):
    done = script(
        """
        import asyncio, sys
        from arshai_native import _core, aiofiles
        async def main():
            f = await aiofiles.open(sys.argv[1])
            assert await f.read(1) == "a"
            _core._shutdown()
            assert await f.read(1) == "b"
            assert await _core.run_blocking(len, "xyz") == 3
            await f.close()
        asyncio.run(main())
        """,
        path_with(tmp_path, b"abc"),
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("count", "cancel"), [(1, True), (60, True), (60, False)])
def test_a_subinterpreter_ends_after_its_calls(count, cancel):
    """Those that have begun, and those that wait for a thread."""
    code = """
        import sys, textwrap
        try:
            from _testcapi import run_in_subinterp
        except ImportError:
            sys.exit()
        code = f'''
        import sys; sys.path[:] = {sys.path!r}
        import asyncio, time
        from arshai_native import _core
        async def main():
            calls = [_core.run_blocking(time.sleep, 0.1) for _ in range({sys.argv[1]})]
            tasks = [asyncio.ensure_future(call) for call in calls]
            await asyncio.sleep(0.05)
            return tasks
        if {sys.argv[2]}:
            asyncio.run(main())
        else:
            asyncio.new_event_loop().run_until_complete(main())
        '''
        assert run_in_subinterp(textwrap.dedent(code)) == 0
    """
    done = script(code, str(count), str(cancel))
    assert done.returncode == 0, done.stderr
