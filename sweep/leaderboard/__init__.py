"""Numbers of a report: rows, boards, statistics, published results."""
