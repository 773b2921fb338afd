"""The systems under test, each behind the same few operations (see ``systems.base``)."""
