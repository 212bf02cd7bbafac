"""Tests of sweep.engine."""
