"""Tests of sweep.plan."""
