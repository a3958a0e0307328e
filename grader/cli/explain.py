"""`grade explain`: what a finding's code means."""

from __future__ import annotations

import textwrap

import click


@click.command("explain")
@click.argument("code", required=False)
def command(code: str | None) -> None:
    """Explain the code of a failure message, with an example. Without a code, list all codes."""
    from grader import explain
    from grader.report import terminal

    out = terminal.console()
    if code is None:
        for known in explain.explanations().values():
            out.print(f"{known.code:<20} {known.summary}", highlight=False, markup=False)
        return
    known = explain.find(code)
    out.print(f"[bold]{known.code}[/bold]   {known.exercise or 'all exercises'}\n", highlight=False)
    for text in (known.summary, known.production):
        out.print(text.replace("\n", " "), highlight=False, markup=False)
        out.print()
    if "\n" in known.example:
        out.print("The mistake, and the right way:\n", highlight=False)
    out.print(textwrap.indent(known.example, "    "), highlight=False, markup=False)
