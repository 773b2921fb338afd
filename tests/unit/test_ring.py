"""Rings in shared memory: a reader gets the whole record or nothing."""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_actors.protocol.places import Place
from celery_actors.store import ring as ring_module
from celery_actors.store.ring import Ring, RingReader, memory_id
from celery_actors.store.rings import Rings
from celery_actors.store.shm import SharedMemoryStore
from celery_actors.store.sweep import Sweep

NAME = "ca-00000000-00000000-owner-r1"
CAPACITY = 64 * 1024
KB = 1024


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which stands still unless a test moves it: a ring that is idle begins anew."""
    now = [100.0]
    monkeypatch.setattr(ring_module, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def ring(directory: Path) -> Iterator[Ring]:
    made = Ring(directory / NAME, CAPACITY)
    yield made
    made.close()
    assert not (directory / NAME).exists()


@pytest.fixture
def reader(directory: Path) -> RingReader:
    return RingReader(directory)


def written(ring: Ring, data: bytes) -> Place:
    place = ring.write((data,))
    assert place is not None
    return place


def test_what_was_written_is_read(ring: Ring, reader: RingReader) -> None:
    first = ring.write((b"one", memoryview(b"two"), b""))
    second = written(ring, b"x" * 5000)
    assert first is not None
    assert reader.read(first) == b"onetwo"
    assert reader.read(second) == b"x" * 5000
    assert reader.read(first) == b"onetwo"


def test_a_part_of_a_record_is_read(ring: Ring, reader: RingReader) -> None:
    place = ring.write((b"first", b"second", b"third"))
    assert place is not None
    assert reader.read(place, 5, 6) == b"second"
    assert reader.read(place, 11, 5) == b"third"
    assert reader.read(place, 11, 500) == b"third", "not what lies behind it"
    ring.close()
    assert reader.read(place._replace(serial=place.serial + 1), 5, 6) is None


def test_a_record_stands_until_the_ring_comes_round(ring: Ring, reader: RingReader) -> None:
    places = [written(ring, bytes([n]) * 8 * KB) for n in range(40)]
    found = [reader.read(place) for place in places]
    alive = [n for n, data in enumerate(found) if data is not None]
    assert 5 <= len(alive) <= 8
    assert alive == list(range(40 - len(alive), 40))
    assert all(found[n] == bytes([n]) * 8 * KB for n in alive)


def test_what_is_needed_is_not_written_over(ring: Ring, reader: RingReader) -> None:
    needed = dict.fromkeys(range(100), True)
    places = []
    for n in range(100):
        place = ring.write((bytes([n]) * 8 * KB,), lambda n=n: needed[n])
        if place is None:
            break
        places.append(place)
    assert 5 <= len(places) <= 8
    assert [reader.read(place) for place in places] == [
        bytes([n]) * 8 * KB for n in range(len(places))
    ]
    assert ring.in_use
    needed[1] = False  # the oldest is still needed: those behind it wait for it
    assert ring.write((bytes(8 * KB),), lambda: True) is None
    needed[0] = False
    assert ring.write((b"y" * 8 * KB,), lambda: True) is not None
    assert reader.read(places[0]) is None
    assert reader.read(places[2]) == bytes([2]) * 8 * KB


def test_what_is_needed_at_the_beginning_keeps_nothing_else_from_being_written(
    ring: Ring, clock: list[float]
) -> None:
    assert ring.write((bytes(8 * KB),), lambda: True) is not None
    for _ in range(3):
        clock[0] += 10  # as long as it was in use, it did not begin anew
        assert ring.write((bytes(8 * KB),), lambda: True) is not None


def test_what_nobody_needs_any_more_makes_room_at_the_beginning(ring: Ring) -> None:
    places = [ring.write((bytes(8 * KB),), lambda: False) for _ in range(100)]
    assert {place.offset for place in places if place is not None} == {0}
    assert len({place.serial for place in places if place is not None}) == 100
    assert not ring.in_use


def test_what_is_too_large_is_refused(ring: Ring, reader: RingReader) -> None:
    assert ring.write((bytes(CAPACITY),)) is None
    place = written(ring, bytes(CAPACITY - 64))
    assert reader.read(place) == bytes(CAPACITY - 64)


def test_little_use_takes_little_memory(directory: Path) -> None:
    ring = Ring(directory / NAME)
    for _ in range(50):
        assert ring.write((bytes(10 * KB),), lambda: False) is not None
    assert (directory / NAME).stat().st_blocks * 512 <= 256 * KB
    for _ in range(50):
        assert ring.write((bytes(10 * KB),)) is not None
    assert 500 * KB <= (directory / NAME).stat().st_blocks * 512 <= 768 * KB
    ring.close()


def test_without_memory_nothing_is_written(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int, _offset: int, _length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ring_module.os, "posix_fallocate", full)
    assert ring.write((b"x",)) is None
    monkeypatch.undo()
    assert ring.write((b"x",)) is not None


@pytest.mark.parametrize(
    "other",
    [
        {"serial": 1},
        {"size": 99},
        {"offset": 64},
        {"offset": 1 << 40},
        {"name": "ca-00000000-00000000-owner-r2"},
        {"name": "ca-00000000-00000000-owner-1"},
        {"name": "../" + NAME},
        {"name": "ca-00000000-00000000-owner-life"},
    ],
    ids=str,
)
def test_a_place_that_is_not_there_is_not_read(
    ring: Ring, reader: RingReader, other: dict[str, object]
) -> None:
    place = written(ring, bytes(100))
    assert reader.read(place) == bytes(100)
    assert reader.read(place._replace(**other)) is None  # type: ignore[arg-type]


def test_links_are_not_followed(directory: Path, reader: RingReader) -> None:
    (directory / "target").write_bytes(bytes(4096))
    (directory / NAME).symlink_to(directory / "target")
    assert reader.read(Place(NAME, 0, 0, 0)) is None
    (directory / NAME).unlink()


def test_a_reader_keeps_what_it_mapped(directory: Path, reader: RingReader) -> None:
    ring = Ring(directory / NAME, CAPACITY)
    place = written(ring, b"still here")
    assert reader.read(place) == b"still here"
    ring.close()
    assert reader.read(place) == b"still here"
    assert RingReader(directory).read(place) is None


def test_rings_that_are_not_read_are_let_go_of(
    directory: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring_module, "_MOST_MAPPED", 3)
    reader = RingReader(directory)
    rings = [Ring(directory / f"ca-00000000-00000000-owner-r{n}", CAPACITY) for n in range(5)]
    places = [written(ring, bytes([n])) for n, ring in enumerate(rings)]
    for place in places:
        assert reader.read(place) is not None
        clock[0] += 1
    assert sorted(reader._mapped) == [place.name for place in places[2:]]
    clock[0] += 29
    assert reader.read(places[4]) is not None
    reader.forget_idle()
    assert sorted(reader._mapped) == [places[4].name]
    for ring in rings:
        ring.close()


def test_a_reader_never_sees_half_of_a_record(directory: Path) -> None:
    """One process writes round and round, another reads what is just being written over."""
    size, records, seconds, enough, most_seconds = 64 * KB, 16, 2.0, 100, 60.0
    ring = Ring(directory / NAME, size * records)
    first = written(ring, b"0" * (size - 16))
    count = mmap.mmap(-1, 8)  # of records written, for the other process to see

    def read_what_goes_next() -> int:
        reader, read = RingReader(directory), 0
        began = time.monotonic()
        while (spent := time.monotonic() - began) < seconds or read < enough:
            if spent > most_seconds:
                return 2
            oldest = max(0, int.from_bytes(count[:], "little") + 1 - records)
            for number in (oldest, oldest + 1):
                place = first._replace(
                    offset=number % records * size, serial=first.serial + number * size
                )
                data = reader.read(place)
                if data is not None:
                    read += 1
                    if data != data[:1] * len(data):
                        return 1
        return 0

    pid = os.fork()
    if pid == 0:
        os._exit(read_what_goes_next())
    number, status = 0, 0
    while not status:
        number += 1
        written(ring, b"%d" % (number % 10) * (size - 16))
        count[:] = number.to_bytes(8, "little")
        done, result = os.waitpid(pid, os.WNOHANG)
        status = done and 1 + os.waitstatus_to_exitcode(result)
    ring.close()
    assert status != 2, "it saw half of a record"
    assert status == 1, "it found hardly anything to read"


def test_processes_see_the_same_memory_or_not(directory: Path) -> None:
    other = Path(tempfile.mkdtemp(prefix="ca-test-", dir="/dev/shm"))
    assert memory_id(directory) == memory_id(directory / ".")
    assert memory_id(directory) != memory_id(other)
    assert memory_id(directory / "made") != bytes(8)
    (directory / "file").touch()
    assert memory_id(directory / "file") == bytes(8)
    other.rmdir()


@pytest.fixture
def rings(directory: Path, tmp_path: Path) -> Iterator[Rings]:
    store = SharedMemoryStore("0" * 16, "owner", directory=directory, spill=tmp_path)
    made = Rings(store)
    yield made
    made.close()
    store.close()
    assert list(directory.iterdir()) == []


def test_calls_and_results_have_rings_of_their_own(rings: Rings) -> None:
    call = rings.write_calls((b"message", b"buffer"), lambda: True)
    result = rings.write_results((b"value",))
    assert call is not None
    assert result is not None
    assert call.name != result.name
    assert (rings.read(call), rings.read(result)) == (b"messagebuffer", b"value")
    assert rings.carries_calls


def test_closed_rings_take_nothing(rings: Rings) -> None:
    rings.close()
    assert rings.write_results((b"value",)) is None
    assert rings.write_calls((b"message",), lambda: True) is None
    assert not rings.carries_calls


def test_a_fork_writes_nothing_into_its_parent_s_ring(rings: Rings) -> None:
    place = rings.write_results((b"of the parent",))
    assert place is not None
    pid = os.fork()
    if pid == 0:
        wrote = rings.write_results((b"of the child",))
        rings.close()
        os._exit(0 if wrote is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert rings.read(place) == b"of the parent"


def nothing_stored() -> Sweep:
    return Sweep(lambda oids: [False] * len(oids), lambda _: False, lambda _: False, 600.0)


def test_rings_of_the_dead_are_swept(directory: Path, tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        store = SharedMemoryStore("0" * 16, "dead", directory=directory, spill=tmp_path)
        Rings(store).write_results((b"value",))
        os._exit(0)
    os.waitpid(pid, 0)
    assert len(list(directory.iterdir())) == 2
    assert nothing_stored().run(directory, lambda _owner: True) == 1, "though its job goes on"
    assert list(directory.iterdir()) == [], "the marker of its life goes with the last file"


def test_rings_of_the_living_are_not_swept(rings: Rings, directory: Path) -> None:
    place = rings.write_results((b"value",))
    assert place is not None
    assert nothing_stored().run(directory, lambda _owner: False) == 0
    assert RingReader(directory).read(place) == b"value"
