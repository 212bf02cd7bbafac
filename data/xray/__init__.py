"""X-ray scans with boxes around threats, and the patches that are cut from them."""
