"""Metrics on their way: gathered in each process, kept in Redis, shown to Prometheus.

What programs use is :mod:`celery_actors.util.metrics`.  Importing ``celery_actors`` loads
none of this.
"""
