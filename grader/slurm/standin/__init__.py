"""A stand-in for Slurm where it can't be installed: the same commands and the same sequences of
signals, without Slurm's daemons. Where it differs from the real cluster, it's wrong
(grader/tests/slurm/test_slurm_conformance.py).
"""
