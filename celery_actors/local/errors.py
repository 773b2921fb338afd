"""What can go wrong with a cluster on this machine."""


class LocalClusterError(RuntimeError):
    """A local cluster could not be started, reached or stopped; the message says what to do."""


class PortTakenError(LocalClusterError):
    """Another program took one of the chosen ports between the choice and the start."""
