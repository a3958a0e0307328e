"""What exercise 1 asks for, and the jobs of later exercises are given: its lives can't import
it.
"""
