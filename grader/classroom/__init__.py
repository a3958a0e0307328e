"""Grading a class: finding what students handed in, grading all of it, telling what came out."""
