"""What runs on each machine beside Ray: plain files of the standard library, for the image's own Python."""
