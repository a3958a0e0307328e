"""Writes down every signal that reaches it, into $PROBE: recorder.py NAME [TERM=0 ...], where
TERM=0 means: then exit 0.
"""

import os
import signal
import sys

name, *rules = sys.argv[1:]
ends = dict(rule.split("=") for rule in rules)
log = os.open(os.environ["PROBE"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)


def say(word):
    os.write(log, f"{name} {word}\n".encode())


def tell(number, frame):
    word = signal.Signals(number).name[3:]
    say(word)
    if word in ends:
        os._exit(int(ends[word]))


for number in (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
):
    signal.signal(number, tell)
say("ready")
while True:
    signal.pause()
