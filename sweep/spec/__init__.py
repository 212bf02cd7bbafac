"""Everything a YAML may say, and the trial with its key."""
