"""Provider `existing`: a Ray cluster that runs already."""
