"""Compare anomaly detectors: from one YAML file to a leaderboard that separates real differences from noise."""

__version__ = "0.1.0"
