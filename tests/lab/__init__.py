"""A proving ground on one Linux machine: machines made of namespaces, alone, under Slurm, or behind a fake of AWS."""
