"""Write docs/cli.md, the options of all verbs, from the command itself; `make docs` does."""

import sys
from pathlib import Path
from typing import Any

import typer.main

from h5ingest.cli import app

HEAD = """# Command line

Made from the same options as `h5ingest VERB --help`.
`h5ingest --install-completion` lets the shell complete verbs and options.
"""


def cli_page() -> str:
    """Return the page as Markdown."""
    group: Any = typer.main.get_command(app.make_app())
    lines = [HEAD]
    for name, verb in group.commands.items():
        verbs = getattr(verb, "commands", {"": verb})
        for sub, command in verbs.items():
            full = f"{name} {sub}".strip()
            context = command.make_context(f"h5ingest {full}", [], resilient_parsing=True)
            context.max_content_width = context.terminal_width = 96
            lines += [f"## {full}", "", "```text", command.get_help(context).rstrip(), "```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    page, file = cli_page(), Path(sys.argv[1])
    if not file.exists() or file.read_text() != page:
        file.write_text(page)
