"""UNTRUSTED: the training job, and drivers that call a submission's functions.

What is here may report more, but not judge, expect or explain (grader/authoring/boundary.py).
"""
