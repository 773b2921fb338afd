"""What actors print is shown when they print it, and nobody looks while they don't."""

from __future__ import annotations

import gc
import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_actors.local import logs
from celery_actors.local.logs import follow_logs, stop_following

SECONDS = 60.0


@pytest.fixture(params=["inotify", "looking"])
def shown(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[io.StringIO]:
    """What is shown of a job's logs; with and without the kernel's help."""
    if request.param == "looking":
        monkeypatch.setattr(logs._libc, "inotify_init1", lambda _flags: -1, raising=False)
    out = io.StringIO()
    (tmp_path / "logs" / "job").mkdir(parents=True)
    follow_logs(str(tmp_path), "job", out)
    yield out
    stop_following()


def log(directory: Path, name: str, text: str) -> None:
    with (directory / "logs" / "job" / name).open("a") as file:
        file.write(text)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def wait_for(shown: io.StringIO, text: str) -> None:
    deadline = time.monotonic() + SECONDS
    while shown.getvalue() != text:
        assert time.monotonic() < deadline, (
            f"shown was {shown.getvalue()!r:.200}, not {text!r:.200}"
        )
        time.sleep(0.01)  # bounded polling of another thread


def test_lines_are_shown_with_who_printed_them(shown: io.StringIO, tmp_path: Path) -> None:
    log(tmp_path, "Counter.12@here.log", "one\ntwo\n")
    wait_for(shown, "(Counter.12) one\n(Counter.12) two\n")
    log(tmp_path, "other.txt", "of no actor\n")
    log(tmp_path, "Counter.12@here.log", "three\n")
    wait_for(shown, "(Counter.12) one\n(Counter.12) two\n(Counter.12) three\n")


def test_a_file_that_goes_meanwhile_keeps_no_other_from_being_shown(
    shown: io.StringIO, tmp_path: Path
) -> None:
    (tmp_path / "logs" / "job" / "gone@host.log").symlink_to("nowhere")  # listed, and not there
    log(tmp_path, "Counter.1@host.log", "first\n")
    wait_for(shown, "(Counter.1) first\n")


def test_a_line_is_shown_when_it_is_complete(
    shown: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_UNFINISHED_AFTER", 60.0)
    log(tmp_path, "A@here.log", "begun")
    log(tmp_path, "B@here.log", "done\n")
    wait_for(shown, "(B) done\n")
    log(tmp_path, "A@here.log", " and ended\n")
    wait_for(shown, "(B) done\n(A) begun and ended\n")


def test_a_line_that_nobody_completes_is_shown_after_a_while(
    shown: io.StringIO, tmp_path: Path
) -> None:
    log(tmp_path, "A@here.log", "Name? ")
    wait_for(shown, "(A) Name? \n")
    log(tmp_path, "A@here.log", "thanks\n")
    wait_for(shown, "(A) Name? \n(A) thanks\n")


def test_a_last_line_without_an_end_is_shown_at_the_end(
    shown: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_UNFINISHED_AFTER", 60.0)
    log(tmp_path, "A@here.log", "one\nthe last words")
    wait_for(shown, "(A) one\n")
    stop_following()
    assert shown.getvalue() == "(A) one\n(A) the last words\n"


def test_a_very_long_line_is_cut_between_characters(shown: io.StringIO, tmp_path: Path) -> None:
    log(tmp_path, "A@here.log", "x" + "☃" * 1_000_000 + "\n")
    deadline = time.monotonic() + SECONDS
    while shown.getvalue().count("☃") < 1_000_000 and time.monotonic() < deadline:
        time.sleep(0.01)  # bounded polling of another thread
    assert shown.getvalue().replace("\n(A) ", "") == "(A) x" + "☃" * 1_000_000 + "\n"


def test_only_an_end_of_a_line_ends_it(shown: io.StringIO, tmp_path: Path) -> None:
    log(tmp_path, "A@here.log", "a\x0bb\x0cc\x85d\u2028e\n")
    wait_for(shown, "(A) a\x0bb\x0cc\x85d\u2028e\n")


def test_an_output_that_was_closed_is_no_error(tmp_path: Path) -> None:
    out = io.StringIO()
    follow_logs(str(tmp_path), "job", out)
    thread = logs._thread
    assert thread is not None
    out.close()
    log(tmp_path, "A@here.log", "unseen\n")
    time.sleep(2 * logs._AT_MOST_EVERY)
    assert thread.is_alive()
    stop_following()
    assert not thread.is_alive()


def test_much_at_once_is_shown_to_its_end(shown: io.StringIO, tmp_path: Path) -> None:
    line = "x" * 99
    log(tmp_path, "A@here.log", f"{line}\n" * 30_000)
    wait_for(shown, f"(A) {line}\n" * 30_000)


def test_what_was_printed_last_is_shown_before_the_end(shown: io.StringIO, tmp_path: Path) -> None:
    log(tmp_path, "A@here.log", "the last words\n")
    stop_following()
    assert shown.getvalue() == "(A) the last words\n"


class _Slow(io.StringIO):
    """Takes long, as the pipe to a program that is late to read."""

    def write(self, text: str) -> int:
        if not self.getvalue():
            time.sleep(2.5)
        return super().write(text)


def test_what_was_printed_last_is_shown_by_an_output_that_takes_long(tmp_path: Path) -> None:
    out = _Slow()
    follow_logs(str(tmp_path), "job", out)
    log(tmp_path, "A@here.log", "the last words\n")
    stop_following()
    assert out.getvalue() == "(A) the last words\n"


def test_while_nobody_prints_nobody_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Path] = []
    sizes = logs._sizes

    def look(directory: Path) -> list[tuple[str, int]]:
        looks.append(directory)
        return sizes(directory)

    monkeypatch.setattr(logs, "_sizes", look)
    gc.collect()  # what earlier tests left would go at any time
    before = descriptors()
    out = io.StringIO()
    follow_logs(str(tmp_path), "job", out)
    log(tmp_path, "A@here.log", "one\n")
    wait_for(out, "(A) one\n")
    for _ in range(5):
        seen = len(looks)
        time.sleep(1.0)  # in which somebody who looks now and then would have looked
        if len(looks) == seen:  # else the thread was late to see the line
            break
    assert len(looks) == seen
    stop_following()
    assert len(looks) == seen + 1
    assert descriptors() == before
