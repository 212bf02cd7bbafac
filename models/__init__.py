"""Detectors in pure torch; this package uses no files, no network, and no other part of the application."""
