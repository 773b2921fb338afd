"""The shared-memory store: what it promises to readers, to other processes, and on a full disk."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from celery_actors.store import owned_file
from celery_actors.store import shm as shm_module
from celery_actors.store.owners import file_prefix
from celery_actors.store.segment import held_value
from celery_actors.store.shm import Segment, SegmentLost, SharedMemoryStore, StoreFull
from celery_actors.store.sweep import Sweep

MIB = 1 << 20
MakeStore = Callable[..., SharedMemoryStore]


@pytest.fixture
def make(directory: Path, tmp_path: Path) -> Iterator[MakeStore]:
    stores: list[SharedMemoryStore] = []

    def make_store(owner: str = "owner1", **options: int | float | Path) -> SharedMemoryStore:
        options = {"directory": directory, "spill": tmp_path / "spill", **options}
        stores.append(SharedMemoryStore("0123456789abcdef", owner, **options))  # type: ignore[arg-type]
        return stores[-1]

    yield make_store
    for store in stores:
        store.close()
    assert not any(directory.iterdir()), "close() leaves nothing"
    assert not (tmp_path / "spill").exists() or list((tmp_path / "spill").iterdir()) == []


def segments_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.endswith("life"))


def in_fork(work: Callable[[], None]) -> None:
    """Run `work` in a forked child, which must come to its end without an exception."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:  # noqa: BLE001 - the parent learns of it by the exit code
            os.write(2, f"child: {error!r}\n".encode())
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def python(code: str, *args: object) -> subprocess.Popen[str]:
    """A fresh interpreter that runs `code`; talk to it over its pipes."""
    head = (
        "import os, sys\nfrom pathlib import Path\n"
        "from celery_actors.store.shm import Segment, SegmentLost, SharedMemoryStore\n"
        "directory, spill = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "def store(owner):\n"
        "    places = {'directory': directory, 'spill': spill}\n"
        "    return SharedMemoryStore('0123456789abcdef', owner, **places)\n"
        "def say(*words):\n    print(*words, flush=True)\n"
        "def segment(at):\n    return Segment.from_bytes(bytes.fromhex(sys.argv[at]))\n"
    )
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, args)],
        stdin=pipe,
        stdout=pipe,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def finish(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=60)
    assert process.returncode == 0


# -- the segment's own encoding --------------------------------------------------------------------


def test_segment_encoding_round_trips_and_is_deterministic(make: MakeStore) -> None:
    segment = make().write(b"o", [b"abc", b"", bytes(1000)])
    data = segment.to_bytes()
    assert Segment.from_bytes(data) == segment
    assert Segment.from_bytes(memoryview(data)).to_bytes() == data
    assert segment.lengths == (3, 0, 1000)
    assert segment.size == 1003
    on_disk = Segment("n", segment.name, (1,), True)
    assert Segment.from_bytes(on_disk.to_bytes()).on_disk


@pytest.mark.parametrize("cut", [0, 3, 11, -1])
def test_segment_encoding_rejects_truncation(make: MakeStore, cut: int) -> None:
    data = make().write(b"o", [b"abc"]).to_bytes()
    with pytest.raises(ValueError, match=r"truncated|wrong length"):
        Segment.from_bytes(data[:cut])


def test_segment_encoding_rejects_other_versions_and_longer_data(make: MakeStore) -> None:
    data = make().write(b"o", [b"abc"]).to_bytes()
    for bad in (b"\x02" + data[1:], data[:1] + b"\x07" + data[2:], data + b"\0"):
        with pytest.raises(ValueError, match=r"unknown version|wrong length"):
            Segment.from_bytes(bad)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "", "ca-00000000-00000000-o-life", "x\0"])
def test_names_lead_nowhere_else(make: MakeStore, name: str) -> None:
    segment = Segment("n", name, (1,))
    with pytest.raises(ValueError, match="not the name"):
        Segment.from_bytes(segment.to_bytes())
    with pytest.raises(ValueError, match="not the name"):
        make().read(segment)


def test_owner_must_fit_into_a_file_name(make: MakeStore) -> None:
    for owner in ("", "a/b", "a b", "x" * 81):
        with pytest.raises(ValueError, match="owner"):
            make(owner)


# -- writing and reading ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frames", [[], [b""], [b"a"], [b"a" * 64, b"b" * 63, b"", b"c" * 65], [os.urandom(300_001)] * 3]
)
def test_frames_come_back(make: MakeStore, frames: list[bytes]) -> None:
    store = make()
    views = store.read(store.write(b"o", frames))
    assert [bytes(view) for view in views] == frames
    for view in views:
        if view.nbytes:
            assert np.frombuffer(view, np.uint8).ctypes.data % 64 == 0
            assert view.readonly


def test_frames_of_any_format_and_order(make: MakeStore) -> None:
    store = make()
    fortran: Any = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    frames: list[Any] = [bytearray(b"x"), np.arange(5).data, pickle.PickleBuffer(fortran)]
    views = store.read(store.write(b"o", frames))
    assert np.frombuffer(views[1], int).tolist() == [0, 1, 2, 3, 4]
    assert np.frombuffer(views[2]).reshape((3, 4), order="F").tolist() == fortran.tolist()
    with pytest.raises(BufferError):
        store.write(b"o", [np.arange(10)[::2].data])
    assert len(segments_in(store.directory)) == 1


def test_numpy_is_zero_copy_and_read_only(make: MakeStore) -> None:
    store = make()
    array = np.arange(1_000_000.0)
    buffers: list[pickle.PickleBuffer] = []
    stream = pickle.dumps({"a": array}, protocol=5, buffer_callback=buffers.append)
    segment = store.write(b"o", [stream, *buffers])

    head, *rest = store.read(segment)
    loaded = pickle.loads(head, buffers=rest)["a"]
    assert (loaded == array).all()
    assert not loaded.flags.writeable
    assert np.shares_memory(loaded, np.frombuffer(rest[0], np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        loaded[0] = 1
    # It is the file itself: what is changed there (nobody may) is seen in the array.
    with (store.directory / segment.name).open("r+b") as file:
        file.seek(-array.nbytes, os.SEEK_END)
        raw = (store.directory / segment.name).read_bytes()
        file.seek(raw.index(array.tobytes()[:64]))
        file.write(np.float64(-7).tobytes())
    assert loaded[0] == -7


def test_files_are_private_and_named_for_the_sweep(make: MakeStore) -> None:
    store = make("worker-1")
    segment = store.write(b"o", [b"x"])
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    assert segment.name.startswith(f"ca-{boot}-01234567-worker-1-")
    for path in store.directory.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert file_prefix("node-worker-1", "o") != file_prefix("node-worker-2", "o")


def test_header_names_the_object(make: MakeStore) -> None:
    store = make()
    segment = store.write(b"object-17", [b"x"])
    assert b"object-17" in (store.directory / segment.name).read_bytes()[:64]
    with pytest.raises(ValueError, match="at most 40"):
        store.write(bytes(41), [b"x"])


def test_segment_with_other_lengths_is_not_read(make: MakeStore) -> None:
    store = make()
    segment = store.write(b"o", [b"x" * 100])
    for lengths in ((99,), (101,), (10**9,), ()):
        with pytest.raises(SegmentLost):
            store.read(Segment(segment.node, segment.name, lengths))


def test_has(make: MakeStore) -> None:
    store = make()
    segment = store.write(b"o", [b"x"])
    assert store.has(segment)
    store.release(segment)
    assert not store.has(segment)
    with pytest.raises(SegmentLost) as raised:
        store.read(segment)
    assert isinstance(raised.value, FileNotFoundError)


def test_copy_from_another_node(make: MakeStore) -> None:
    here, there = make("here"), make("there")
    frames = [b"head", b"", os.urandom(200_000), os.urandom(7)]
    segment = there.write(b"o", frames)
    for size in (7, 1000, 64 * 1024, MIB):
        copy = here.adopt(b"o", segment.lengths, there.chunks(segment, size))
        assert copy.lengths == segment.lengths
        assert copy.name != segment.name
        assert [bytes(view) for view in here.read(copy)] == frames


@pytest.mark.parametrize("chunks", [[], [b"abc"], [b"abcdefg", b"h"], [b"abcdef", b"", b"g"]])
def test_copy_of_the_wrong_size_is_not_kept(make: MakeStore, chunks: list[bytes]) -> None:
    store = make()
    with pytest.raises(ValueError, match=r"did not come|more than 6 bytes"):
        store.adopt(b"o", (2, 0, 4), chunks)
    assert segments_in(store.directory) == []
    assert [bytes(v) for v in store.read(store.adopt(b"o", (2, 0, 4), [b"abcd", b"ef"]))] == [
        b"ab",
        b"",
        b"cdef",
    ]


def test_copy_that_breaks_off_is_not_kept(make: MakeStore) -> None:
    def broken() -> Iterator[bytes]:
        yield b"abc"
        raise ConnectionError("peer went")

    store = make()
    with pytest.raises(ConnectionError):
        store.adopt(b"o", (6,), broken())
    assert segments_in(store.directory) == []


# -- release and recycling -------------------------------------------------------------------------


def test_release_recycles_the_file_under_a_new_name(make: MakeStore) -> None:
    store = make()
    first = store.write(b"o", [bytes(3 * MIB)])
    inode = (store.directory / first.name).stat().st_ino
    store.release(first)
    store.release(first)  # idempotent
    second = store.write(b"o", [b"\1" * (3 * MIB)])
    assert (store.directory / second.name).stat().st_ino == inode
    assert second.name != first.name
    assert not store.has(first)
    assert bytes(store.read(second)[0]) == b"\1" * (3 * MIB)
    store.release(second)
    third = store.write(b"o", [b"\2" * (3 * MIB - 5)])  # about the same size, mapped by now
    assert (store.directory / third.name).stat().st_ino == inode
    assert bytes(store.read(third)[0]) == b"\2" * (3 * MIB - 5)


def test_small_value_does_not_sit_on_a_large_file(make: MakeStore) -> None:
    store = make()
    store.release(store.write(b"o", [bytes(8 * MIB)]))
    small = store.write(b"o", [bytes(MIB)])
    assert (store.directory / small.name).stat().st_size < 1.1 * MIB


def test_view_survives_release_and_is_never_overwritten(make: MakeStore) -> None:
    store = make()
    segment = store.write(b"o", [b"a" * (2 * MIB)])
    array = np.frombuffer(store.read(segment)[0], np.uint8)
    store.release(segment)
    assert segments_in(store.directory) == []  # unlinked, not recycled
    for _ in range(3):
        store.release(store.write(b"o", [b"b" * (2 * MIB)]))
    assert (array == ord("a")).all()


def test_lock_goes_with_the_last_view(make: MakeStore) -> None:
    store = make()
    segment = store.write(b"o", [b"a", b"b" * (2 * MIB)])
    inode = (store.directory / segment.name).stat().st_ino
    views = store.read(segment)
    array = np.frombuffer(views[1], np.uint8)[5:]
    del views, array
    gc.collect()
    store.release(segment)
    again = store.write(b"o", [b"a", b"b" * (2 * MIB)])
    assert (store.directory / again.name).stat().st_ino == inode


def test_recycling_is_bounded_in_bytes_and_files(make: MakeStore) -> None:
    store = make(recycle_bytes=4 * MIB)
    segments = [store.write(b"o", [bytes(MIB)]) for _ in range(8)]
    large = store.write(b"o", [bytes(5 * MIB)])
    for segment in [*segments, large]:
        store.release(segment)
    kept = [(store.directory / name).stat().st_size for name in segments_in(store.directory)]
    assert 0 < sum(kept) <= 4 * MIB
    store = make("owner2")
    for segment in [store.write(b"o", [b"x"]) for _ in range(100)]:
        store.release(segment)
    assert "kept=64 " in repr(store)


def test_idle_files_are_given_back(make: MakeStore) -> None:
    store = make(recycle_seconds=60.0)
    store.release(store.write(b"o", [bytes(MIB)]))
    store.collect()
    assert len(segments_in(store.directory)) == 1
    store.recycle_seconds = 0.05
    time.sleep(0.1)
    store.collect()
    assert segments_in(store.directory) == []


def test_reader_that_opened_before_recycling_finds_out(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race: open by name, [release, recycle, write anew], lock, verify."""
    store = make()
    segment = store.write(b"o", [b"a" * 100_000])
    real_open = os.open

    def open_then_recycle(path: Any, *args: Any) -> int:
        fd = real_open(path, *args)
        monkeypatch.setattr(os, "open", real_open)
        store.release(segment)
        if rewrite:
            fresh.append(store.write(b"o", [b"b" * 100_000]))
            assert os.fstat(fd).st_ino == (store.directory / fresh[0].name).stat().st_ino
        return fd

    fresh: list[Segment] = []
    rewrite = False
    monkeypatch.setattr(os, "open", open_then_recycle)
    with pytest.raises(SegmentLost):
        store.read(segment)

    segment, rewrite = store.write(b"o", [b"a" * 100_000]), True
    monkeypatch.setattr(os, "open", open_then_recycle)
    with pytest.raises(SegmentLost):
        store.read(segment)
    assert bytes(store.read(fresh[0])[0]) == b"b" * 100_000


def test_header_is_wiped_as_soon_as_the_file_is_taken_back(make: MakeStore) -> None:
    store = make()
    store.release(store.write(b"o", [b"a" * 100]))
    (name,) = segments_in(store.directory)
    assert (store.directory / name).read_bytes()[:64] == bytes(64)


def test_thousands_of_values_do_not_use_up_descriptors(make: MakeStore) -> None:
    store = make()
    before = len(list(Path("/proc/self/fd").iterdir()))
    segments = [store.write(b"o", [i.to_bytes(4, "big") * 20_000]) for i in range(1500)]
    segments += [store.write(b"o", [bytes(MIB)]) for _ in range(100)]
    assert len(list(Path("/proc/self/fd").iterdir())) - before < 80
    views = [store.read(segment)[0] for segment in segments]
    assert len(list(Path("/proc/self/fd").iterdir())) - before < 350
    assert all(view.readonly for view in views)
    assert all(bytes(view[:4]) == i.to_bytes(4, "big") for i, view in enumerate(views[:1500]))
    for segment in segments:
        store.release(segment)
    assert len(segments_in(store.directory)) <= 64


def test_threads(make: MakeStore) -> None:
    store = make()
    errors: list[Exception] = []

    def work(number: int) -> None:
        try:
            for turn in range(60):
                mark = bytes([number * 16 + turn % 16])
                size = 70_000 * (1 + turn % 3) if number % 2 else MIB + turn
                segment = store.write(mark, [mark, mark * size])
                views = store.read(segment)
                if turn % 2:
                    store.release(segment)
                assert bytes(views[1]) == mark * size
                del views
                store.release(segment)
        except Exception as error:  # noqa: BLE001 - raised anew in the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


def test_closed_store_refuses_and_views_stay(make: MakeStore) -> None:
    store = make()
    view = store.read(store.write(b"o", [b"a" * 1000]))[0]
    store.close()
    store.close()
    assert bytes(view) == b"a" * 1000
    with pytest.raises(RuntimeError, match="closed"):
        store.write(b"o", [b"x"])


# -- want of space ---------------------------------------------------------------------------------


def test_full_memory_falls_back_to_disk(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store, reader = make(), make("reader")
    kept = store.write(b"o", [bytes(MIB)])
    store.release(kept)
    real = os.posix_fallocate

    def full(fd: int, offset: int, length: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink().is_relative_to("/dev/shm"):
            raise OSError(errno.ENOSPC, "full")
        real(fd, offset, length)

    monkeypatch.setattr(owned_file, "_allocate_space", full)
    segment = store.write(b"o", [b"a" * 200_000, b"b"])
    assert segment.on_disk
    assert segments_in(store.directory) == []  # what was kept for recycling went first
    assert (tmp_path / "spill").stat().st_mode & 0o777 == 0o700
    views = reader.read(Segment.from_bytes(segment.to_bytes()))
    assert reader.has(segment)
    reader.release(segment)
    assert not store.has(segment)
    assert bytes(views[0]) == b"a" * 200_000
    store.release(segment)
    monkeypatch.undo()
    assert not store.write(b"o", [b"x"]).on_disk


def test_no_space_anywhere(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    store = make()
    monkeypatch.setattr(owned_file, "_allocate_space", full)
    with pytest.raises(StoreFull) as raised:
        store.write(b"o", [b"a" * 1000])
    assert raised.value.errno == errno.ENOSPC
    assert segments_in(store.directory) == [] == segments_in(store.spill)


def test_other_errors_are_not_taken_for_want_of_space(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.EIO, "broken")

    store = make()
    monkeypatch.setattr(owned_file, "_allocate_space", fails)
    with pytest.raises(OSError, match="broken"):
        store.write(b"o", [b"a"])


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_real_full_tmpfs(make: MakeStore, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount here")
    try:
        store = make(directory=small)
        held = [store.write(b"o", [bytes(MIB)]) for _ in range(6)]
        assert [segment.on_disk for segment in held] == [False] * 3 + [True] * 3
        assert [bytes(store.read(segment)[0]) for segment in held] == [bytes(MIB)] * 6
        for segment in held:
            store.release(segment)
        # The pool holds 3 MiB of the 4 now: it is given up for the value that needs the room.
        large = store.write(b"o", [bytes(3 * MIB)])
        assert not large.on_disk
        store.close()
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)  # even if a file is open


# -- several processes -----------------------------------------------------------------------------


def test_another_process_reads_and_its_lock_stops_recycling(
    make: MakeStore, tmp_path: Path
) -> None:
    store = make()
    segment = store.write(b"o", [b"a" * (2 * MIB)])
    inode = (store.directory / segment.name).stat().st_ino
    reader = python(
        "views = store('reader').read(segment(3))\nsay('ready')\nsys.stdin.readline()\n"
        "assert bytes(views[0]) == b'a' * (2 << 20)\n",
        store.directory,
        tmp_path / "spill",
        segment.to_bytes().hex(),
    )
    assert heard(reader) == "ready"
    store.release(segment)
    other = store.write(b"o", [b"b" * (2 * MIB)])
    assert (store.directory / other.name).stat().st_ino != inode
    finish(reader)

    store.release(other)  # nobody reads this one
    third = store.write(b"o", [b"c" * (2 * MIB)])
    assert bytes(store.read(third)[0]) == b"c" * (2 * MIB)
    assert segments_in(store.directory) == [third.name]


def test_release_by_another_process_is_taken_back_by_the_owner(
    make: MakeStore, tmp_path: Path
) -> None:
    store = make()
    for size in (100_000, 2 * MIB):  # one that is not kept open, one that is
        segment = store.write(b"o", [b"a" * size])
        inode = (store.directory / segment.name).stat().st_ino
        args = (store.directory, tmp_path / "spill", segment.to_bytes().hex())
        finish(python("s = store('driver')\ns.release(segment(3))\ns.release(segment(3))\n", *args))
        assert not store.has(segment)
        with pytest.raises(SegmentLost):
            store.read(segment)
        assert store.collect() == 1
        again = store.write(b"o", [b"b" * size])
        assert (store.directory / again.name).stat().st_ino == inode


def test_large_files_released_elsewhere_are_written_again_at_once(make: MakeStore) -> None:
    store, driver = make(), make("driver")
    inodes = set()
    for _ in range(5):
        segment = store.write(b"o", [bytes(2 * MIB)])
        inodes.add((store.directory / segment.name).stat().st_ino)
        driver.release(segment)
    assert len(inodes) == 1


def test_rewriting_under_readers_in_other_processes(make: MakeStore, tmp_path: Path) -> None:
    """Readers race with an owner that releases and rewrites: lost or right, never mixed."""
    store = make()
    reader_code = (
        "import zlib\ns = store('reader' + sys.argv[3])\nseen = lost = 0\nsay('ready')\n"
        "for line in sys.stdin:\n"
        "    data, _, mark = line.strip().partition(' ')\n"
        "    if not mark: break\n"
        "    try:\n"
        "        view = s.read(Segment.from_bytes(bytes.fromhex(data)))[0]\n"
        "    except SegmentLost:\n"
        "        lost += 1\n"
        "        continue\n"
        "    first = bytes(view)\n"
        "    assert first == bytes([int(mark)]) * len(first), 'another write seen'\n"
        "    assert bytes(view) == first, 'changed under the view'\n"
        "    seen += 1\n"
        "say(seen, lost)\n"
    )
    readers = [python(reader_code, store.directory, tmp_path / "spill", i) for i in range(2)]
    assert [heard(reader) for reader in readers] == ["ready"] * 2
    for turn in range(400):
        mark = turn % 251
        segment = store.write(b"o", [bytes([mark]) * 300_000])
        for reader in readers:
            assert reader.stdin is not None
            reader.stdin.write(f"{segment.to_bytes().hex()} {mark}\n")
            reader.stdin.flush()
        if turn % 3:
            time.sleep(0.0003)
        store.release(segment)
    left = store.write(b"o", [b"\7" * 300_000])  # at least this one is seen
    for reader in readers:
        assert reader.stdin is not None
        reader.stdin.write(f"{left.to_bytes().hex()} 7\n{segment.to_bytes().hex()} {mark}\n")
    seen = lost = 0
    for reader in readers:
        out, _ = reader.communicate("\n", timeout=60)
        assert reader.returncode == 0
        seen, lost = seen + int(out.split()[0]), lost + int(out.split()[1])
    assert seen + lost == 804
    assert seen >= 2
    assert lost >= 2


def test_fork_shares_views_but_owns_nothing(make: MakeStore) -> None:
    store = make()
    segment = store.write(b"o", [b"a" * (2 * MIB)])
    small = store.write(b"o", [b"s"])
    view = store.read(segment)[0]

    def child() -> None:
        assert bytes(view) == b"a" * (2 * MIB)
        assert bytes(store.read(small)[0]) == b"s"
        store.release(segment)
        store.collect()
        store.close()
        with pytest.raises(RuntimeError, match="forked child"):
            store.write(b"o", [b"x"])
        with SharedMemoryStoreOf(store, "child1") as own:
            assert bytes(own.read(own.write(b"o", [b"own"]))[0]) == b"own"

    in_fork(child)
    assert store.has(segment)
    assert store.has(small)
    store.release(segment)
    assert bytes(view) == b"a" * (2 * MIB)


class SharedMemoryStoreOf:
    """A second store beside another, closed at the end of the block."""

    def __init__(self, other: SharedMemoryStore, owner: str) -> None:
        self.store = SharedMemoryStore(
            other.node, owner, directory=other.directory, spill=other.spill
        )

    def __enter__(self) -> SharedMemoryStore:
        return self.store

    def __exit__(self, *_: object) -> None:
        self.store.close()


def test_view_of_a_forked_child_keeps_the_lock(make: MakeStore) -> None:
    """The parent's view goes, the child's stays: the file must not be rewritten under it."""
    store = make()
    segment = store.write(b"o", [b"a" * (2 * MIB)])
    view = store.read(segment)[0]
    go_read, go_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(go_read, 1)
        os._exit(0 if bytes(view) == b"a" * (2 * MIB) else 1)
    del view
    gc.collect()
    store.release(segment)
    store.write(b"o", [b"b" * (2 * MIB)])
    os.write(go_write, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(go_read)
    os.close(go_write)


def test_fork_while_another_thread_holds_the_lock(make: MakeStore) -> None:
    store = make()
    segment = store.write(b"o", [b"x"])

    def child() -> None:
        signal.alarm(60)  # a lock inherited in its locked state would hang for ever
        store.release(segment)
        with SharedMemoryStoreOf(store, "child1") as own:
            own.write(b"o", [b"x"])

    with store._lock:
        in_fork(child)
    assert store.has(segment)


def test_one_owner_one_store(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_actors.store.owners._CLAIM_PATIENCE", 0.05)
    make("same").write(b"o", [b"x"])
    with pytest.raises(RuntimeError, match="another live store"):
        make("same").write(b"o", [b"x"])


# -- sweeping --------------------------------------------------------------------------------------

CRASH = (
    "s = store('crashed')\ns.write(b'o', [b'x'])\ns.release(s.write(b'o', [bytes(1 << 20)]))\n"
    "s.write(b'o', [b'y' * 100_000])\nsay('ready')\nsys.stdin.readline()\nos.kill(os.getpid(), 9)\n"
)


def a_sweep(
    stored: Container[bytes] = (),
    receivers: Container[bytes] = (),
    living: Container[bytes] = (),
    keep_seconds: float = 600.0,
) -> Sweep:
    return Sweep(
        lambda oids: [oid in stored for oid in oids],
        receivers.__contains__,
        living.__contains__,
        keep_seconds,
    )


def sweep(directory: Path, in_use: Callable[[str], bool]) -> int:
    """Sweep once, knowing nothing of before."""
    return a_sweep().run(directory, in_use)


def test_sweep_takes_only_what_the_dead_left(make: MakeStore, tmp_path: Path) -> None:
    store = make("living")
    kept = store.write(b"o", [b"x"])
    (store.directory / "unrelated").write_bytes(b"")
    (store.directory / "ca-notes.txt").write_bytes(b"")
    crashed = python(CRASH, store.directory, tmp_path / "spill")
    assert heard(crashed) == "ready"
    asked: list[str] = []

    def alive(owner: str) -> bool:
        asked.append(owner)
        return False

    # Both processes run, whatever the leases say (they may be those of another cluster).
    assert sweep(store.directory, alive) == 0
    assert sorted(asked) == ["crashed", "living"]
    crashed.communicate("\n")
    # The lease is not over yet: only what was kept to be written again goes.
    assert sweep(store.directory, lambda owner: True) == 1
    assert sweep(store.directory, lambda owner: True) == 0
    assert sweep(store.directory, alive) == 2
    assert set(segments_in(store.directory)) == {"ca-notes.txt", kept.name, "unrelated"}
    assert store.has(kept)
    assert sweep(store.directory / "missing", alive) == 0
    for name in ("unrelated", "ca-notes.txt"):
        (store.directory / name).unlink()


def test_sweep_takes_what_was_released_while_its_owner_died(
    make: MakeStore, tmp_path: Path
) -> None:
    reader = make("reader")
    owner = python(
        "import pickle\ns = store('crashed')\nfor _ in range(2):\n"
        "    say(s.write(b'o', [b'y' * 100_000]).to_bytes().hex())\n"
        "sys.stdin.readline()\nos.kill(os.getpid(), 9)\n",
        reader.directory,
        tmp_path / "spill",
    )
    released, kept = (Segment.from_bytes(bytes.fromhex(heard(owner))) for _ in range(2))
    reader.release(released)  # marks it: its owner, which lives, would take it back
    assert sweep(reader.directory, lambda owner: True) == 0
    owner.communicate("\n")
    assert sweep(reader.directory, lambda owner: True) == 1
    assert reader.has(kept)
    reader.release(kept)
    assert sweep(reader.directory, lambda owner: True) == 0
    assert list(reader.directory.glob("*crashed*")) == [], "no life marker either"


OBJECT, OTHER, ACTOR = b"object-of-18-bytes", b"another-of-18-byte", b"actor-of-16-byte"
assert (len(OBJECT), len(OTHER), len(ACTOR)) == (18, 18, 16)


def left_by_the_dead(
    make: MakeStore, tmp_path: Path, *object_ids: bytes
) -> tuple[SharedMemoryStore, list[Segment]]:
    """A store that reads, and the values that a process has left which was killed."""
    reader = make("reader")
    writes = [f"say(s.write({oid!r}, [b'y' * 1000]).to_bytes().hex())\n" for oid in object_ids]
    owner = python(
        "s = store('crashed')\n" + "".join(writes) + "os.kill(os.getpid(), 9)\n",
        reader.directory,
        tmp_path / "spill",
    )
    left = [Segment.from_bytes(bytes.fromhex(heard(owner))) for _ in object_ids]
    owner.communicate()
    return reader, left


def runs(_owner: str) -> bool:
    return True


def is_over(_owner: str) -> bool:
    return False


def test_of_the_dead_what_is_stored_stays_while_the_job_runs(
    make: MakeStore, tmp_path: Path
) -> None:
    reader, (stored, unstored) = left_by_the_dead(make, tmp_path, OBJECT, OTHER)
    found = {OBJECT}
    one = a_sweep(found)
    assert one.run(reader.directory, runs) == 0, "a commit may be under way: it looks twice"
    assert one.run(reader.directory, runs) == 1
    assert (reader.has(stored), reader.has(unstored)) == (True, False)
    assert one.run(reader.directory, runs) == 0
    found.clear()  # its last ref went
    assert one.run(reader.directory, runs) == 1
    assert one.run(reader.directory, runs) == 0
    assert not any(reader.directory.glob("*crashed*")), "its marker goes with its last file"


def test_of_the_dead_arguments_stay_while_their_actor_lives(
    make: MakeStore, tmp_path: Path
) -> None:
    reader, (arguments,) = left_by_the_dead(make, tmp_path, OBJECT + ACTOR)
    receivers = {ACTOR}
    one = a_sweep((), receivers)
    for in_use in (runs, runs, is_over, is_over):  # the actor may be a detached one
        assert one.run(reader.directory, in_use) == 0
    assert reader.has(arguments)
    receivers.clear()
    assert one.run(reader.directory, is_over) == 1


def test_of_the_dead_what_calls_carry_stays_as_long_as_results(
    make: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, (arguments, carried, other) = left_by_the_dead(
        make, tmp_path, OBJECT + ACTOR, OBJECT, OTHER
    )
    reader.mark_carried(carried)
    now = time.monotonic()
    monkeypatch.setattr("celery_actors.store.sweep.monotonic", lambda: now)
    one = a_sweep((), {ACTOR}, keep_seconds=60.0)
    assert one.run(reader.directory, runs) == 0
    now += 59.0
    assert one.run(reader.directory, runs) == 1
    assert [reader.has(s) for s in (arguments, carried, other)] == [True, True, False]
    now += 2.0
    assert one.run(reader.directory, runs) == 2
    assert one.run(reader.directory, runs) == 0
    assert not any(reader.directory.glob("*crashed*"))


def test_of_the_dead_a_copy_of_another_nodes_value_goes_at_once(
    make: MakeStore, tmp_path: Path
) -> None:
    reader, _ = left_by_the_dead(make, tmp_path, b"")
    assert a_sweep().run(reader.directory, runs) == 1


def test_of_the_dead_of_a_job_that_is_over_what_the_living_had_made_stays(
    make: MakeStore, tmp_path: Path
) -> None:
    reader, (result, other) = left_by_the_dead(make, tmp_path, OBJECT, OTHER)
    one = a_sweep({OBJECT, OTHER}, living={OBJECT[:8]})  # as of a detached actor's results
    assert one.run(reader.directory, is_over) == 1
    assert one.run(reader.directory, is_over) == 0
    assert (reader.has(result), reader.has(other)) == (True, False)
    assert a_sweep().run(reader.directory, is_over) == 1


def test_the_value_of_a_ref_argument_goes_with_the_job(make: MakeStore, tmp_path: Path) -> None:
    reader, (carried,) = left_by_the_dead(make, tmp_path, OBJECT)
    reader.mark_carried(carried)
    assert a_sweep((), {ACTOR}).run(reader.directory, is_over) == 1


def test_a_value_that_was_carried_is_read_and_written_over_as_any(make: MakeStore) -> None:
    store = make()
    segment = store.write(OBJECT, [b"x" * (1 << 20)])
    store.mark_carried(segment)
    assert bytes(store.read(segment)[0][:1]) == b"x"
    store.release(segment)
    again = store.write(OTHER, [b"y" * (1 << 20)])
    assert held_value(store.directory / again.name) == (OTHER, False)
    store.mark_carried(segment)  # too late: that file has another value now
    assert held_value(store.directory / again.name) == (OTHER, False)


def test_sweep_keeps_what_others_wrote_for_an_owner_that_lives(tmp_path: Path) -> None:
    recorder = tmp_path / f"{file_prefix('0123456789abcdef', 'node.0123456789abcdef')}{'ab' * 8}"
    recorder.write_bytes(bytes(1024))  # the owner itself has written nothing: it has no marker
    assert sweep(tmp_path, lambda owner: True) == 0
    assert recorder.exists()
    assert sweep(tmp_path, lambda owner: False) == 1


def test_owner_that_comes_back_does_not_meet_its_old_files(make: MakeStore, tmp_path: Path) -> None:
    store = make("crashed")
    crashed = python(CRASH, store.directory, tmp_path / "spill")
    assert heard(crashed) == "ready"
    crashed.communicate("\n")
    old = segments_in(store.directory)
    segment = store.write(b"o", [b"new"])
    assert segment.name not in old
    assert bytes(store.read(segment)[0]) == b"new"
    for name in old:
        (store.directory / name).unlink()


def test_release_of_a_dead_owners_segment_unlinks(make: MakeStore, tmp_path: Path) -> None:
    reader = make("reader")
    crashed = python(
        "say(store('crashed').write(b'o', [b'x' * 1000]).to_bytes().hex())\nsys.stdin.readline()\n"
        "os.kill(os.getpid(), 9)\n",
        reader.directory,
        tmp_path / "spill",
    )
    segment = Segment.from_bytes(bytes.fromhex(heard(crashed)))
    crashed.communicate("\n")
    view = reader.read(segment)[0]
    reader.release(segment)
    assert segments_in(reader.directory) == []
    assert bytes(view) == b"x" * 1000
    assert sweep(reader.directory, lambda owner: False) == 0  # its life marker goes


def test_fork_of_a_dead_owner_does_not_count_as_the_owner(make: MakeStore, tmp_path: Path) -> None:
    directory = make("unused").directory
    owner = python(
        "s = store('crashed')\ns.write(b'o', [b'x'])\n"
        "if os.fork() == 0:\n    say('ready')\n    sys.stdin.readline()\n    os._exit(0)\n"
        "os.wait()\n",
        directory,
        tmp_path / "spill",
    )
    assert heard(owner) == "ready"
    owner.kill()
    owner.wait()
    assert sweep(directory, lambda name: False) == 1
    owner.communicate("\n\n")  # lets the fork go


def test_module_exports() -> None:
    assert sorted(shm_module.__all__) == [
        "Segment",
        "SegmentLost",
        "SharedMemoryStore",
        "StoreFull",
    ]
