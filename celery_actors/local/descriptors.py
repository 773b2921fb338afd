"""Standard input, output and error of a program that was started without them."""

from __future__ import annotations

import os

__all__ = ["open_standard_descriptors"]


def open_standard_descriptors() -> None:
    """Open whichever of the descriptors 0, 1 and 2 is closed, on the null device.

    Otherwise the next socket or file would get its number, and be what a program that is started
    reads, or what native code prints to.
    """
    number = os.open(os.devnull, os.O_RDWR)
    while number <= 2:
        os.set_inheritable(number, True)
        number = os.open(os.devnull, os.O_RDWR)
    os.close(number)
