"""References that train no network on the dataset: what a detector that trains one has to beat."""
