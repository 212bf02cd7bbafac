"""Numbers: rows, boards, statistics, published results."""
