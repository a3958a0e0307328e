"""The `grade` command: the table of its commands, and `main`.

A command is a module with a click command named `command`. To add one, write the module and name it
in COMMANDS. A module is imported only when its command runs, so `grade hint` starts quickly.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback

import click

from grader.cli.state import STATE
from grader.course.catalog import ROOT
from grader.errors import UsageError
from grader.harness import privileges
from grader.interrupt import Interrupted, end_in_order
from grader.processes import reap_descendants
from grader.report.logs import escaped

# command -> its module, in the order in which `grade --help` lists them
COMMANDS = {
    "checks": "grader.cli.grade",
    "watch": "grader.cli.watch",
    "show": "grader.cli.show",
    "hint": "grader.cli.hint",
    "explain": "grader.cli.explain",
    "reset": "grader.cli.reset",
    "run": "grader.cli.run",
    "debug": "grader.cli.debug",
    "class": "grader.cli.class_",
    "release": "grader.cli.release",
    "export": "grader.cli.export",
    "cluster": "grader.cli.cluster",
    "crashtest": "grader.cli.crashtest",
    "audit": "grader.cli.audit",
    "dev": "grader.cli.dev",
}
WITHOUT_A_NAME = "checks"

SYNTAX = """
\b
grade [ex01 | ex01.3 | ex01.3/CHECK ...] [--submission DIR | --solution]
      [--json FILE] [--junit FILE] [--html FILE] [--jobs N] [--seed N] [--fault F]
      [--launcher fork|plain] [--cluster slurm|stand-in|site] [--sandbox auto|require|off]

Runs your training job as real processes, kills it, and compares the resumed run with an
undisturbed one, bit for bit. Exit status: 0 all graded tasks pass, 1 some don't,
2 wrong usage, 3 inconclusive. `grade checks --help` explains the options.
"""


class Commands(click.Group):
    """The commands of COMMANDS. Without a command's name, it grades: `grade ex01`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name]).command
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = next((a for a in args if not a.startswith("-")), None)
        if args[:1] not in (["--help"], ["-h"]) and first not in COMMANDS:
            args = [WITHOUT_A_NAME, *args]
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        known = [(name, self.get_command(ctx, name)) for name in COMMANDS]
        rows = [(name, c.get_short_help_str(80)) for name, c in known if c and not c.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, help=SYNTAX)
def main_group() -> None:
    pass


def main() -> None:
    """Entry point: our own errors are one line on stderr and exit status 2 or 3, never a
    traceback.
    """
    try:
        end_in_order()
        privileges.hide_from_others()
        # processes that outlive a killed guardian become ours, and end with the launcher
        reap_descendants()
        main_group.main(prog_name="grade", standalone_mode=False)
    except UsageError as e:
        _leave(2, str(e))
    except click.exceptions.Exit as e:
        sys.exit(e.exit_code)
    except click.ClickException as e:
        _leave(2, f"{e.format_message()}  (grade --help)")
    except Interrupted as e:
        _leave(128 + e.number, "interrupted; every process has been ended")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except OSError as e:
        _leave(3, f"{e.strerror or e}{f': {e.filename}' if e.filename else ''}")
    except Exception as e:
        at = traceback.extract_tb(e.__traceback__)[-1]
        where = f"{type(e).__name__}: {e} ({os.path.basename(at.filename)}:{at.lineno})"
        _leave(3, f"this is a bug in the grader: {where}{_kept(traceback.format_exc())}")


def _kept(text: str) -> str:
    """Keep the traceback for a bug report; says where."""
    file = STATE / "error.log"
    with contextlib.suppress(OSError):
        STATE.mkdir(exist_ok=True)
        file.write_text(text)
        return f"; please report it with {file.relative_to(ROOT)}"
    return ""


def _leave(status: int, text: str) -> None:
    with contextlib.suppress(OSError):
        click.echo(f"grade: {escaped(text)}", err=True)
    sys.exit(status)
