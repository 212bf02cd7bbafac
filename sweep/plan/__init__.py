"""What a sweep asks for and what its store holds: work, platform, cost, status."""
