"""Tests of sweep.report."""
