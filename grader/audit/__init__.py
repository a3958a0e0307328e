"""`grade audit`: runs somebody's own training command, kills it, and says what a resume loses.

session                  an audit from its first undisturbed run to its last fault
lives, enter, boot       run the command as real processes, with the probe inside
faults, plan, damage     the faults; which ones are tried; what is done to the newest checkpoint
power                    the disk states of a power loss, with the recorder of grader/crash
history, compare         what was recorded, as values; from which step a life continues, and where
                         two lives differ first
judge, judge_*           what a fault cost and what went wrong: pure functions
problems, words          what may go wrong, by code; what it means and what fixes it
findings                 one for each mistake, in order of harm
report, page, data       for people on a terminal, as a page, and for programs
reproduce                shell scripts that show a finding again
"""
