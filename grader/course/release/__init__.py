"""`grade release`: the hand-out, which is the course as students get it, without the answers."""
