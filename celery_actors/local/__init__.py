"""Clusters on this machine: RabbitMQ, Redis and a node worker under supervisord.

Nothing here imports Celery: a program that starts a private cluster does so while its own
imports still run, and the command line stays quick.
"""

from celery_actors.local.address import ClusterAddress
from celery_actors.local.errors import LocalClusterError
from celery_actors.local.node_options import NodeOptions
from celery_actors.local.private import PrivateCluster

__all__ = ["ClusterAddress", "LocalClusterError", "NodeOptions", "PrivateCluster"]
