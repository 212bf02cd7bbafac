"""From one YAML to a leaderboard: which anomaly detector is better here, by how much, and is it more than noise?"""

__version__ = "0.1.0"
