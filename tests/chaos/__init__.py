"""Seeded faults: many random ones, against a model of what must hold."""
