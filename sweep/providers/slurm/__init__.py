"""One job of Slurm."""
