"""Grading a class: finds what students handed in, grades all of it, and writes the results."""
