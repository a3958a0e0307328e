"""`grade audit`: runs somebody's own training command, kills it, and says what a resume loses.

session.py drives it: lives.py runs the command as real processes, with the probe of boot/ inside;
plan.py draws the faults; judge.py compares what was recorded; findings.py puts it into words.
"""
