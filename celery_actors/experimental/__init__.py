"""What Ray's programs find in ``ray.experimental``."""
