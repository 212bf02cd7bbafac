"""Support for tests: sweeps, servers, and stand-ins for programs and services."""
