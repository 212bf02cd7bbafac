"""Processes on the head of a cluster: the supervisor, and the driver that it starts."""
