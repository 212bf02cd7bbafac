"""Parts that detectors share: layers, networks, optimiser and arithmetic."""
