"""What tests share: sweeps, servers, stand-ins for programs and services."""
