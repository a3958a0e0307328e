"""A stand-in for Slurm where it can't be installed: the same commands, the same sequences of
signals, no daemons of Slurm's. Where it differs from the real cluster, it's wrong
(grader/tests/slurm/test_slurm_conformance.py).
"""
