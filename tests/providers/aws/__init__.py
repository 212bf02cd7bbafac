"""Tests of sweep.providers.aws."""
