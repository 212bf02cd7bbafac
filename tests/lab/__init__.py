"""A test lab on one Linux machine: machines made of namespaces, alone, with Slurm, or behind a fake of AWS."""
