"""Datasets: sources of images, storage as Parquet shards, and splits into train, validation and test.

Read in this order: `catalog` (names), `sources.digits` and `sources.mnist` (sources), `xray.boxes`, `xray.patches` and
`xray.scans` (X-ray scans to patches), `storage.shards` (source to store), `storage.loader` (store to arrays in shared
pages), `protocols` (arrays to train / validation / test).
This package imports neither detectors nor sweeps.  Its callers open the store and pass it in.
"""
