"""The version of the package."""

__all__ = ["__version__"]

#: Which of Ray's APIs this stands for, so that programs that look at Ray's version accept it, and
#: after the plus sign this package's own version.
__version__ = "2.60.0+actors.0.1.0"
