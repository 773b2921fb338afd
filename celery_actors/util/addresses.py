"""The address under which this machine reaches others."""

from celery_actors.store.whereabouts import get_node_ip_address

__all__ = ["get_node_ip_address"]
