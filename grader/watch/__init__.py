"""`grade watch`: grades again at every save, and reads keys.

changes   says when a file of the submission was saved
keys      reads keys without Enter, and leaves the terminal as it was
turns     one grading, and the launcher that is kept warm for the next one
session   what is graded next, and what is shown
"""
