"""Tests of sweep.cli."""
