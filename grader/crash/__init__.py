"""What a crash can leave on the disk of a process that saves, and what its own load makes of it.

syscalls, tracer   hold a process at each call that may change a directory (Linux)
disk, recorder     what the calls did, as one list of operations
states             every disk state that a crash at any moment may leave, on several kinds of file
                   system
judge              what load makes of each of them, in a process of its own
verdict, story     which outcomes break the promise, and the smallest of them, told
"""
