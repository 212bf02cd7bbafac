"""Prepared datasets as Parquet shards: written once, read through a cache on each node."""
