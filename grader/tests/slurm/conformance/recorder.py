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


# waited for and not handled: a handler that is called just before pause() runs only at the next one
signals = {
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
say("ready")
while True:
    word = signal.Signals(signal.sigwait(signals)).name[3:]
    say(word)
    if word in ends:
        os._exit(int(ends[word]))
