"""Packages of files: stored once a job, read verified, gone with the job."""

from __future__ import annotations

import io

import pytest

from celery_actors.exceptions import ObjectLostError, TamperedError
from celery_actors.protocol.packages import CHUNK_BYTES, encode_chunk, package_hash
from celery_actors.protocol.signing import Signer
from celery_actors.store.packages import Packages

from .cluster import Cluster

KEY = b"k" * 16
DATA = bytes(range(256)) * (CHUNK_BYTES // 256) + b"the rest"


def packages(cluster: Cluster, job: str | None = None) -> Packages:
    return Packages(cluster.control, Signer(KEY), job or cluster.job)


def store(cluster: Cluster, data: bytes = DATA) -> str:
    total = package_hash()
    total.update(data)
    packages(cluster).store(total.hexdigest(), io.BytesIO(data), len(data))
    return total.hexdigest()


def test_what_was_stored_is_read(cluster: Cluster) -> None:
    digest = store(cluster)
    assert packages(cluster).has(digest)
    assert b"".join(packages(cluster).read(digest)) == DATA
    assert not packages(cluster, "another job").has(digest)


def test_it_is_stored_once_a_job(cluster: Cluster) -> None:
    digest = store(cluster)
    unread = io.BytesIO(DATA)
    packages(cluster).store(digest, unread, len(DATA))
    assert unread.tell() == 0


def test_half_of_a_package_is_none(cluster: Cluster) -> None:
    chunk = encode_chunk(Signer(KEY), "d", 0, 2, b"half")
    assert cluster.control.store_package(cluster.job, "d", 0, chunk)
    assert not packages(cluster).has("d")
    with pytest.raises(ObjectLostError, match="job is over"):
        list(packages(cluster).read("d"))
    assert cluster.control.complete_package(cluster.job, "d", 2)
    with pytest.raises(ObjectLostError, match="job is over"):
        list(packages(cluster).read("d"))


def test_a_package_that_is_another(cluster: Cluster) -> None:
    chunk = encode_chunk(Signer(KEY), "d", 0, 1, b"signed, but not what the name says")
    cluster.control.store_package(cluster.job, "d", 0, chunk)
    cluster.control.complete_package(cluster.job, "d", 1)
    with pytest.raises(TamperedError, match="another digest"):
        list(packages(cluster).read("d"))
    digest = store(cluster)
    cluster.client.hset(f"ca:job:{cluster.job}:packages", digest, 1)  # the rest is cut off
    with pytest.raises(TamperedError, match="no valid signature"):
        list(packages(cluster).read(digest))


def test_packages_go_with_their_job(cluster: Cluster) -> None:
    node = cluster.node("n1", CPU=1)
    digest = store(cluster)
    cluster.control.end_caller(cluster.driver)
    assert packages(cluster).has(digest)
    cluster.control.forget_job(cluster.job)
    cluster.control.remove_node(node, "left")
    assert cluster.all_keys() == set()
    with pytest.raises(ObjectLostError, match="is over"):
        store(cluster)
    assert cluster.all_keys() == set()


def test_they_stay_for_detached_actors(cluster: Cluster) -> None:
    cluster.node("n1", CPU=1)
    digest = store(cluster)
    detached = cluster.run(cluster.actor(CPU=1, detached=True))
    cluster.control.end_caller(cluster.driver)
    cluster.control.forget_job(cluster.job)
    assert packages(cluster).has(digest)
    cluster.control.kill(detached.actor_id, "test")
    cluster.reap(detached)
    assert not packages(cluster).has(digest)
