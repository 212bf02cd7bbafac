"""Detectors: pure torch, no files, no network, nothing of the rest of the application."""
