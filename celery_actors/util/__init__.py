"""What Ray has under ``ray.util``."""
