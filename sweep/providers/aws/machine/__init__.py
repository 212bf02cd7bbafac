"""Programs on each machine in addition to Ray; they need only the standard library and the image's own Python."""
