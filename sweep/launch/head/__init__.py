"""What runs on the head of a cluster."""
