"""Tests of sweep.providers."""
