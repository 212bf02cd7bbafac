"""Detectors, from published code and papers; this package uses no network and no other part of the application."""
