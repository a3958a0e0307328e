"""On PYTHONPATH of an audited job; it must run without the rest of the grader."""
