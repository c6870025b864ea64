"""Folders and copies by arshai_native.files, beside os and shutil: faults, cancellation."""

import asyncio
import errno
import os
import shutil
import stat
import threading

import pytest
from faultkit import run
from fileskit import goes_on_until, nothing_blocks_here, outcome, outcome_of, turns

from arshai_native import files
from arshai_native.files import CopyProgress

pytest_plugins = ("faultfixtures",)
pytestmark = pytest.mark.usefixtures("bounded")


@pytest.fixture
def tree(tmp_path):
    """Folders, modes, links, times."""
    top = tmp_path / "tree"
    (top / "a" / "b").mkdir(parents=True)
    (top / "empty").mkdir()
    for number, name in enumerate(("one", "a/two", "a/b/three", "a/b/four.tmp")):
        (top / name).write_bytes(os.urandom(number * 3000))
        os.chmod(top / name, 0o600 + number)
        os.utime(top / name, (1000 + number, 2000 + number))
    (top / "link").symlink_to("one")
    (top / "to-folder").symlink_to("a")
    os.utime(top / "a", (5, 6))
    return top


def seen(top):
    """All that there is: kind, mode, time and content by name."""
    found = {}
    for folder, folders, names in os.walk(top):
        for name in folders + names:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            content = None
            if stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            time = int(info.st_mtime) if info.st_mtime < 10_000 else "now"
            found[os.path.relpath(path, top)] = info.st_mode, time, content
    return found


# ---- scandir and walk ----


def test_scandir(tree, monkeypatch):
    (tree / "dangling").symlink_to("nothing")
    expected = {e.name: (e.is_dir(), e.is_symlink(), e.path) for e in os.scandir(tree)}

    async def main():
        for path in (tree, str(tree), os.open(tree, os.O_RDONLY)):
            with nothing_blocks_here():
                entries = await files.scandir(path, stat=True)
            assert all(isinstance(e, os.DirEntry) for e in entries)
            if path is tree:
                assert {e.name: (e.is_dir(), e.is_symlink(), e.path) for e in entries} == expected
            else:
                assert {e.name for e in entries} == expected.keys()
        os.close(path)
        # The entries know it all: nobody has to look any more.
        entries = await files.scandir(tree, stat=True)
        modes = {name: os.lstat(tree / name).st_mode for name in expected}
        for name in expected:
            path = tree / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        assert {e.name: e.stat(follow_symlinks=False).st_mode for e in entries} == modes
        assert {e.name: e.is_dir() for e in entries} == {n: e[0] for n, e in expected.items()}
        (tree / "loop").symlink_to("loop")  # nobody can say whether that is a folder
        assert [e.is_symlink() for e in await files.scandir(tree)] == [True]
        assert [e.name for e in await files.scandir(os.fsencode(tree.parent))] == [b"tree"]
        monkeypatch.chdir(tree.parent)
        assert [e.path for e in await files.scandir()] == ["./tree"]
        for bad in (tree / "missing", __file__, 1.5):
            got = await outcome_of(files.scandir(bad))
            assert got == outcome(lambda: os.scandir(bad))  # noqa: B023

    run(main)


def test_walk(tree):
    (tree / "a" / "b" / "up").symlink_to("..")

    async def main():
        for top in (tree, str(tree), os.fsencode(tree), tree / "missing", tree / "one"):
            for options in ({}, {"topdown": False}):
                with nothing_blocks_here():
                    got = await files.walk(top, **options)
                assert sorted(got) == sorted(os.walk(top, **options))
                assert [folder for folder, *_ in got] == [f for f, *_ in os.walk(top, **options)]
        followed = await files.walk(tree, followlinks=True)
        assert len(followed) > 4 and followed == list(os.walk(tree, followlinks=True))

        errors, release = [], threading.Event()

        def onerror(error):
            errors.append((threading.get_ident(), error))
            assert release.wait(30)

        task = asyncio.ensure_future(files.walk(tree / "missing", onerror=onerror))
        assert await goes_on_until(task, release.set) == []
        assert isinstance(errors[0][1], FileNotFoundError)
        assert errors[0][0] != threading.get_ident()
        with pytest.raises(FileNotFoundError):
            await files.walk(tree / "missing", onerror=throw)

    run(main)


def throw(error):
    raise error


def test_a_walk_that_is_cancelled_stops(tree, monkeypatch):
    """It is left at its next folder."""
    steps, release, reached = [], threading.Event(), threading.Event()

    def slow(*args):
        for number in range(5):
            steps.append(number)
            yield str(number), [], []
            reached.set()
            assert release.wait(30)

    monkeypatch.setattr(os, "walk", slow)

    async def main():
        task = asyncio.ensure_future(files.walk(tree))
        while not reached.is_set():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()
        await asyncio.to_thread(lambda: None)

    run(main)
    assert len(steps) <= 2


# ---- copyfile ----


def copy_cases(folder):
    os.mkfifo(folder / "fifo")
    (folder / "f").write_bytes(b"content" * 1000)
    (folder / "existing").write_bytes(b"longer than nothing" * 10_000)
    (folder / "same").symlink_to("f")
    (folder / "dangling").symlink_to("nothing")
    (folder / "loop").symlink_to("loop")
    (folder / "sub").mkdir()
    return [
        ("f", "new", {}),
        ("f", "existing", {}),
        ("f", "f", {}),
        ("f", "same", {}),
        ("same", "f", {"follow_symlinks": False}),
        ("same", "link", {"follow_symlinks": False}),
        ("same", "link", {"follow_symlinks": False}),
        ("dangling", "x", {}),
        ("dangling", "y", {"follow_symlinks": False}),
        ("f", "dangling", {}),
        ("loop", "z", {}),
        ("f", "loop", {}),
        ("fifo", "z", {}),
        ("f", "fifo", {}),
        ("missing", "z", {}),
        ("sub", "z", {}),
        ("f", "sub", {}),
        ("f", "missing/z", {}),
        ("f", "missing/", {}),
        ("f", "f/z", {}),
        ("missing", "missing/z", {}),
        ("/proc/self/limits", "limits", {}),
        ("/dev/null", "empty", {}),
        ("f", "/dev/null", {}),
        ("f", "/dev/full", {}),
        ("f", 1.5, {}),
        ("a\0b", "z", {}),
    ]


def test_copyfile_beside_shutil(tmp_path, monkeypatch):
    results = []
    for ours in (True, False):
        folder = tmp_path / str(ours)
        folder.mkdir()
        monkeypatch.chdir(folder)
        cases = copy_cases(folder)
        if not ours:
            found = [outcome(lambda: shutil.copyfile(a, b, **o)) for a, b, o in cases]  # noqa: B023
        else:

            async def main(cases=cases):
                found = []
                for source, target, options in cases:
                    with nothing_blocks_here():
                        found.append(await outcome_of(files.copyfile(source, target, **options)))
                return found

            found = run(main)
        assert os.path.getsize("limits") > 100
        os.unlink("limits")
        results.append((found, seen(folder)))
    for case, got, expected in zip(cases, results[0][0], results[1][0], strict=True):
        assert got == expected, case
    assert results[0] == results[1]


def test_progress(tmp_path):
    """On the loop's thread, growing, with the end of it before the await returns."""
    source, target = tmp_path / "source", tmp_path / "target"
    size = 40_000_001
    with open(source, "wb") as file:
        file.write(b"start")
        file.truncate(size)
    here, states = threading.get_ident(), []

    def progress(state):
        assert threading.get_ident() == here
        states.append(state)

    async def main():
        assert await files.copyfile(source, target, progress=progress) is target
        assert target.stat().st_size == size
        assert states[-1] == CopyProgress(str(source), size, size, 1)
        assert len(states) == len(set(states)) > 1
        assert [s.copied for s in states] == sorted(s.copied for s in states)
        count = len(states)
        await turns()
        assert len(states) == count
        source.write_bytes(b"")
        await files.copyfile(source, target, progress=progress)
        assert states[count:] == [CopyProgress(str(source), 0, 0, 1)]
        assert target.read_bytes() == b""

    run(main)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSPC])
def test_a_kernel_that_does_not_copy(number, tmp_path, monkeypatch):
    """Where the system cannot copy between two files, Python does; a full disk stays one."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(3_000_001))

    def sendfile(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "sendfile", sendfile)

    async def main():
        got = await outcome_of(files.copyfile(source, target))
        if number == errno.EINVAL:
            assert got == target and target.read_bytes() == source.read_bytes()
        else:
            assert got == (OSError, errno.ENOSPC, str(source), str(target))

    run(main)


def big(path, size=1 << 29):
    with open(path, "wb") as file:
        file.truncate(size)
    return path


@pytest.mark.parametrize("tree", [False, True])
def test_what_progress_raises_ends_the_copy(tree, tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    source = big(folder / "f")
    target = tmp_path / "target"

    class Enough(BaseException):
        pass

    def progress(state):
        calls.append(state)
        raise Enough

    calls = []

    async def main():
        with pytest.raises(Enough):
            if tree:
                await files.copytree(folder, target, progress=progress)
            else:
                await files.copyfile(source, target, progress=progress)
        await turns()
        assert len(calls) == 1
        copy = target / "f" if tree else target
        assert 0 < copy.stat().st_size < source.stat().st_size

    run(main)


def test_a_copy_that_is_cancelled_has_stopped(tmp_path):
    source, target = big(tmp_path / "source"), tmp_path / "target"

    async def main():
        started = asyncio.Event()
        task = asyncio.ensure_future(
            files.copyfile(source, target, progress=lambda state: started.set())
        )
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        size = target.stat().st_size
        assert 0 < size < source.stat().st_size
        await turns()
        await asyncio.sleep(0.05)
        assert target.stat().st_size == size

    run(main)


def test_a_cancellation_waits_for_the_worker_and_the_next_does_not(tree, tmp_path):
    asked, release = threading.Event(), threading.Event()

    def ignore(folder, names):
        asked.set()
        assert release.wait(30)
        return []

    async def main():
        for second in (False, True):
            asked.clear()
            release.clear()
            target = tmp_path / f"target-{second}"
            task = asyncio.ensure_future(files.copytree(tree, target, ignore=ignore))
            while not asked.is_set():
                await asyncio.sleep(0)
            task.cancel()
            await turns()
            assert not task.done()
            if second:
                task.cancel()
                await turns()
                assert task.cancelled()
            release.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not second or task.cancelled()
            assert not target.exists() or seen(target).keys() < seen(tree).keys()

    run(main)


# ---- copytree ----


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"symlinks": True},
        {"ignore": shutil.ignore_patterns("*.tmp", "empty")},
        {"dirs_exist_ok": True},
    ],
    ids=str,
)
def test_copytree_beside_shutil(options, tree, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    states = []

    async def main():
        with nothing_blocks_here():
            assert await files.copytree(tree, ours, **options, progress=states.append) == ours
        again = await outcome_of(files.copytree(tree, ours, **options))
        assert (again == ours) if "dirs_exist_ok" in options else again[0] is FileExistsError

    run(main)
    shutil.copytree(tree, theirs, **options)
    assert seen(ours) == seen(theirs)
    assert {*seen(tree)} - {*seen(ours)} == (
        {"empty", "a/b/four.tmp"} if "ignore" in options else set()
    )
    copied = [path for path, (mode, *_) in seen(ours).items() if stat.S_ISREG(mode)]
    assert states[-1].files == len(copied)
    assert states[-1].copied == sum((ours / path).stat().st_size for path in copied)


def test_copytree_goes_on_after_errors_and_names_them(tree, tmp_path):
    (tree / "dangling").symlink_to("nothing")
    os.mkfifo(tree / "fifo")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"

    async def main():
        for options in ({}, {"ignore_dangling_symlinks": True}):
            with pytest.raises(shutil.Error) as caught:
                await files.copytree(tree, ours, **options)
            with pytest.raises(shutil.Error) as expected:
                shutil.copytree(tree, theirs, **options)
            got = [[str(part) for part in error] for error in caught.value.args[0]]
            expected = [
                [str(part).replace("theirs", "ours") for part in error]
                for error in expected.value.args[0]
            ]
            assert sorted(got) == sorted(expected) and len(got) == 2 - len(options)
            assert seen(ours) == seen(theirs)
            shutil.rmtree(ours)
            shutil.rmtree(theirs)
        got = await outcome_of(files.copytree(tmp_path / "missing", ours))
        assert got == outcome(lambda: shutil.copytree(tmp_path / "missing", theirs))
        # What ignore() raises ends it.
        with pytest.raises(ZeroDivisionError):
            await files.copytree(tree, ours, ignore=lambda folder, names: 1 // 0)

    run(main)


def test_the_loop_turns_while_a_tree_is_copied(tree, tmp_path):
    release, threads = threading.Event(), set()

    def ignore(folder, names):
        threads.add(threading.get_ident())
        assert release.wait(30)
        return []

    async def main():
        task = asyncio.ensure_future(files.copytree(tree, tmp_path / "t", ignore=ignore))
        await goes_on_until(task, release.set)
        assert threading.get_ident() not in threads

    run(main)
    assert seen(tmp_path / "t").keys() > {"one", "a/b/three"}


def test_a_thousand_at_once(tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 5000)

    async def main():
        targets = [tmp_path / str(n) for n in range(1000)]
        states = []
        await asyncio.gather(
            *(files.copyfile(tmp_path / "f", t, progress=states.append) for t in targets)
        )
        assert sum(s.files for s in states) == 1000
        got = await asyncio.gather(*map(files.read_bytes, targets))
        assert set(got) == {b"x" * 5000}
        entries = await asyncio.gather(*(files.scandir(tmp_path) for _ in range(100)))
        assert {len(e) for e in entries} == {1001}

    run(main)
