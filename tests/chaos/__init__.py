"""Faults and hostile inputs, single and seeded by the hundred: nothing is lost, doubled, harmed or silent."""
