"""Computes what should have happened (expected states, replayed runs), in lives that run no
student code.
"""
