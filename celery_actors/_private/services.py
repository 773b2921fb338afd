"""``ray._private.services``: only the address of this machine."""

from celery_actors.util.addresses import get_node_ip_address

__all__ = ["get_node_ip_address"]
