"""Machines that trials run on: one contract, one folder for each provider."""
