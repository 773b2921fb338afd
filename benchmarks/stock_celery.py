"""The stock Celery app of the benchmark: one counter in the worker's memory.

Broker and backend come from CELERY_BROKER_URL and CELERY_RESULT_BACKEND, which Celery reads
itself.  All else is Celery's default but the queue's name, so that no other worker on the same
broker takes the calls.
"""

from __future__ import annotations

from celery import Celery

app = Celery("stock_celery")
app.conf.task_default_queue = "bench.stock"

_value = 0


@app.task
def increment() -> int:
    global _value
    _value += 1
    return _value
