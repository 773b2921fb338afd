"""What init() takes, before it connects to anything."""

from __future__ import annotations

import subprocess
import sys

import pytest

import celery_actors
from celery_actors import session
from celery_actors.util import get_node_ip_address


def test_options_of_rays_init_that_say_nothing_here_are_accepted() -> None:
    session._check_rays_options(
        {"include_dashboard": False, "logging_level": 20, "_temp_dir": "/nowhere"}
    )


def test_an_unknown_option_names_the_near_ones() -> None:
    with pytest.raises(
        TypeError, match=r"'num_cpu' is no option of init\(\); did you mean num_cpus"
    ):
        celery_actors.init(num_cpu=2)
    with pytest.raises(ValueError, match="local_mode=True is not there"):
        celery_actors.init(local_mode=True)
    assert not celery_actors.is_initialized()


def test_the_session_is_a_mapping_and_a_context() -> None:
    info = session.SessionInfo("job", private=False, address=None)
    assert info["job_id"] == "job"
    assert (
        dict(info)
        == info.address_info
        == {
            "address": None,
            "node_ip_address": get_node_ip_address(),
            "session_dir": None,
            "webui_url": None,
            "job_id": "job",
        }
    )
    assert info.get("redis_address") is None
    with info as inside:
        assert inside is info


def test_no_lock_of_a_session_that_begins_stays_locked_in_a_fork() -> None:
    """As where another thread calls init(), which takes seconds."""
    program = (
        "import os, signal, threading\n"
        "from celery_actors import session\n"
        "from celery_actors.client import current\n"
        "held, over = threading.Event(), threading.Event()\n"
        "def begin():\n"
        "    with session._session.lock, current._lock:\n"
        "        held.set()\n"
        "        over.wait()\n"
        "threading.Thread(target=begin).start()\n"
        "held.wait()\n"
        "if (child := os.fork()) == 0:\n"
        "    signal.alarm(50)\n"
        "    current.set_process(None)\n"
        "    session.shutdown()\n"
        "    os._exit(7)\n"
        "over.set()\n"
        "print(os.waitpid(child, 0)[1] >> 8)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["7"]
