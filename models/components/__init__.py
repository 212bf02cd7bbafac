"""Parts that detectors share: layers, networks, optimizer, arithmetic."""
