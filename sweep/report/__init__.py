"""The report of a sweep: tables, HTML page, figures, and a bundle for reviewers."""
