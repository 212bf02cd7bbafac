"""Datasets: where images come from, how they are stored as Parquet shards, who is tested on what.

Read in this order: `catalog` (names), `digits` and `mnist` (sources), `boxes`, `patches` and `scans` (X-ray
scans to patches), `shards` (source to store),
`loader` (store to arrays in shared pages), `protocols` (arrays to train / validation / test).
Nothing here knows detectors or sweeps; the store is handed in open.
"""
