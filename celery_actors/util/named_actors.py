"""Which actors have names."""

from __future__ import annotations

from typing import Any

from celery_actors.client.current import require_process

__all__ = ["list_named_actors"]


def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """Return the names of living actors (as Ray's ``ray.util.list_named_actors``).

    :param all_namespaces: not only those of this program's namespace.
    :returns: names, sorted; with ``all_namespaces`` a mapping of ``name`` and ``namespace`` each.

    Example::

        Counter.options(name="visits", lifetime="detached").remote()
        list_named_actors()     # ["visits"]
    """
    process = require_process()
    found = process.control.actor_names()
    if all_namespaces:
        return [{"name": name, "namespace": namespace} for namespace, name in found]
    return [name for namespace, name in found if namespace == process.namespace]
