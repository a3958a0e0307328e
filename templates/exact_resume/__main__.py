"""python -m exact_resume ls | verify | diff | export | convert: checkpoints seen from a shell."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .commands import diff, ls, verify
from .conversion import convert, export
from .interfaces import CheckpointError


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} isn't a number of steps or epochs")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m exact_resume", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    add = commands.add_parser("ls", help="list the checkpoints of a directory")
    add.add_argument("path", help="a directory of checkpoints, or one of them")
    add.set_defaults(run=lambda a: ls(a.path))

    add = commands.add_parser("verify", help="read every byte; name each damaged file")
    add.add_argument("path", help="a checkpoint, or a directory of checkpoints")
    add.set_defaults(run=lambda a: verify(a.path))

    add = commands.add_parser("diff", help="name what differs between two checkpoints")
    add.add_argument("one", help="a checkpoint, or a directory: its newest one")
    add.add_argument("other")
    add.add_argument("--rng", action="store_true", help="also compare random number generators")
    add.set_defaults(run=lambda a: diff(a.one, a.other, a.rng))

    add = commands.add_parser("export", help="write a checkpoint's state for other programs")
    add.add_argument("checkpoint", help="a checkpoint, or a directory: its newest one")
    add.add_argument("to", help="FILE.pt (torch.save), FILE.safetensors, or a new folder (DCP)")
    add.add_argument("--part", help="only this part, such as model")
    add.set_defaults(run=lambda a: export(a.checkpoint, a.to, a.part))

    add = commands.add_parser("convert", help="make a checkpoint that a job can resume from")
    add.add_argument("source", help="a file of torch.save or safetensors, or a folder of DCP")
    add.add_argument("directory", help="of checkpoints; the new one is added")
    add.add_argument("--step", type=_count, required=True, help="optimizer steps done")
    add.add_argument("--epoch", type=_count, default=0, help="epochs done")
    add.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="the part's name in the job, such as model_state_dict=model (repeatable)",
    )
    add.set_defaults(run=lambda a: convert(a.source, a.directory, a.step, a.epoch, a.name))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """0 fine; 1 something is damaged, or differs; 2 it can't be done."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except (CheckpointError, OSError, TypeError, ValueError) as e:
        print(f"exact_resume: {e}", file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
