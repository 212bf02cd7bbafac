"""From one YAML to a leaderboard: which anomaly detector is better here, and is that more than noise?"""

__version__ = "0.1.0"
