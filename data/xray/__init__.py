"""X-ray scans with boxes, and the patches that are cut from them."""
