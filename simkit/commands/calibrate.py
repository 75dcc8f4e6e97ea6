"""``simkit calibrate``: profiles from measurements, of this machine or in a file."""

from __future__ import annotations

from typing import Final

import click

from simkit.commands.lazy_group import CommandGroup

COMMANDS: Final = {
    "host": "Measure this machine and write its profile.",
}


class FileOrCommand(CommandGroup):
    """A group whose arguments begin with a table of measurements unless they begin with a subcommand."""

    def resolve_command(self, ctx: click.Context,
                        args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """A known subcommand, or the fit to a file with everything that was written as its arguments."""
        if args[0] in self.list_commands(ctx):
            return super().resolve_command(ctx, args)
        from simkit.commands.calibrate_file import from_file

        return "FILE.csv", from_file, args


@click.group(cls=FileOrCommand, lazy=COMMANDS, prefix="calibrate_",
             subcommand_metavar="host | FILE.csv --profile NAME [-o PROFILE.yaml]")
def calibrate() -> None:
    """Profiles from measurements: of this machine, or a profile's kernel figures fitted to kernel times in a file.

    \b
    simkit calibrate host -o my-machine.yaml
    simkit calibrate my_kernels.csv --profile h100-sxm -o my-h100.yaml
    simkit calibrate my_kernels.csv --help
    """
