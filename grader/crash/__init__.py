"""What a crash can leave on the disk of a process that saves, and what its own load makes of it.

syscalls, tracer            hold a process at each call that may change a directory (Linux)
directory, recorder         what the calls did, as one list of operations
operations                  the operations, and a disk that they are applied to
enumeration, file_systems   every disk state that a crash at any moment may leave, on several kinds
                            of file system
judge                       what load makes of each state, in its own process
promise, description        which outcomes break the promise; the smallest of them, as text and data
crashtest, worker           all of this for one program; the process that `grade crashtest` starts
"""
