"""Storage of prepared datasets as Parquet shards, which are written once and read through a cache on each node."""
