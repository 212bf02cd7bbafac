"""Tests of sweep.launch."""
