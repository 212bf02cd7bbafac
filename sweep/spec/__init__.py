"""Everything that a YAML file may contain, and the spec of a trial with its key."""
