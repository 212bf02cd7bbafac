"""Tests of sweep.launch.head."""
