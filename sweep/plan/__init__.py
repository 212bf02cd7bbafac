"""The plan of a sweep: its trials, their platform and cost, and what the store already holds."""
