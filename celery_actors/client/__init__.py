"""A process's side of the cluster: its calls, its refs, its handles."""
