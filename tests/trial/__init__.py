"""Tests of sweep.trial."""
