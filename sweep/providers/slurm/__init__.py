"""Provider `slurm`: one job of Slurm."""
