"""Tests of sweep.store."""
