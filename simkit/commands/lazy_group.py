"""Command groups that import a command only when it runs, and turn every mistake into one or two lines.

At the top stand only click and ``simkit.foundation.errors``: ``simkit --help`` must not pay for NumPy or Matplotlib.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

import click

from simkit.foundation.errors import UserError, did_you_mean, one_line

USER_ERROR, FAILED = 2, 1
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells count
TERMINATED: Final = 143  # 128 + SIGTERM
READER_GONE: Final = 141  # 128 + SIGPIPE: `simkit ... | head` ends as `cat ... | head` does
HELP_OPTIONS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Terminated(BaseException):
    """SIGTERM: the system, a batch queue or `kill` asks to end. What is half-written goes, as on Ctrl-C."""


class CommandGroup(click.Group):
    """A group whose unknown commands name the nearest right one; without a command it prints its help.

    ``lazy`` are commands with their lines in its list: each lies in the module of its name.
    ``groups``: names of commands under the headings of the help; one list where none are given. ``renamed``: names that
    commands had, which still find them.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, str] | None = None,
                 groups: Mapping[str, Sequence[str]] | None = None, renamed: Mapping[str, str] | None = None,
                 **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", HELP_OPTIONS)
        super().__init__(*args, **kwargs)
        self.no_args_is_help = False  # click 8.2 made that an error; see parse_args
        self.lazy, self._groups, self._renamed = dict(lazy or {}), groups, renamed or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order in which they were registered."""
        del ctx
        return [*self.lazy, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now if need be."""
        cmd_name = self._renamed.get(cmd_name, cmd_name)
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(f"simkit.commands.{cmd_name}"), cmd_name)
        return command

    def resolve_command(self, ctx: click.Context,
                        args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest name in the message."""
        name = str(args[0])
        known = self.list_commands(ctx)
        if name not in (*known, *self._renamed) and not name.startswith("-") and not ctx.resilient_parsing:
            hint = did_you_mean(name, known) or "known: " + ", ".join(known)
            raise click.UsageError(f"no such command '{name[:60]}'; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing any of them."""
        del ctx
        rows = self.lazy | {name: command.get_short_help_str(limit=90) for name, command in self.commands.items()}
        width = max(map(len, rows), default=0)
        for title, names in (self._groups or {"Commands": tuple(rows)}).items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), rows[name]) for name in names])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; nothing at all asks for help."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)


class Program(CommandGroup):
    """The outermost group: exit 0 done, 2 the user's input is wrong, 1 the program failed (with a traceback)."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, complete_var: str | None = None,
             standalone_mode: bool = True, **extra: Any) -> Any:  # noqa: FBT001, FBT002 - click's signature
        """Run and exit; with ``standalone_mode=False`` errors are raised and the result is returned."""
        if not standalone_mode:
            return super().main(args, prog_name or "simkit", complete_var, standalone_mode=False, **extra)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # a µ must not be fatal on an ASCII terminal
        try:
            with _signals_heeded():
                code = super().main(args, prog_name or "simkit", complete_var, standalone_mode=False, **extra)
        except UserError as error:
            for line in str(error).splitlines():
                click.echo(f"error: {line}", err=True)
            sys.exit(USER_ERROR)
        except click.ClickException as error:
            click.echo(f"error: {one_line(' '.join(error.format_message().split()))}", err=True)
            context = getattr(error, "ctx", None)
            if context is not None:
                click.echo(f"try '{context.command_path} --help'", err=True)
            sys.exit(USER_ERROR)
        except (click.Abort, KeyboardInterrupt):
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)
        except Terminated:
            click.echo("terminated", err=True)
            sys.exit(TERMINATED)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run, and flush while a reader that has gone away can still be met quietly."""
        try:
            result = super().invoke(ctx)
            if sys.stdout is not None:  # closed by whoever started the program
                sys.stdout.flush()
        except BrokenPipeError:
            _abandon_stdout()
            ctx.exit(READER_GONE)
        except OSError as error:
            if error.filename is not None:  # not a stream: a bug, whose traceback is wanted
                raise
            _abandon_stdout()
            click.echo(f"error: cannot write to the standard output: {error.strerror or error}", err=True)
            ctx.exit(FAILED)
        return result


@contextmanager
def _signals_heeded() -> Iterator[None]:
    """Turn SIGTERM into an exception as SIGINT is one, once: a second SIGTERM ends the process at once.

    Compiled code that runs Python inside may drop the exception of a signal and raise one of its own: NumPy's and
    Matplotlib's converters do. What comes after a signal is therefore taken as its end.
    """
    import signal
    import threading

    ends: Mapping[int, tuple[Any, type[BaseException]]] = {
        signal.SIGINT: (signal.default_int_handler, KeyboardInterrupt), signal.SIGTERM: (signal.SIG_DFL, Terminated)}
    came: list[int] = []

    def end(number: int, _: object) -> None:
        came.append(number)
        signal.signal(number, ends[number][0])
        raise ends[number][1]

    # Whoever calls this from a thread, or has a handler of his own, keeps it.
    in_main = threading.current_thread() is threading.main_thread()
    ours = [number for number, (usual, _) in ends.items() if in_main and signal.getsignal(number) == usual]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    except Exception as error:
        if came:
            raise ends[came[0]][1] from error
        raise
    finally:
        for number in ours:
            signal.signal(number, ends[number][0])


def _abandon_stdout() -> None:
    """Let the interpreter's last flush of stdout go nowhere instead of complaining."""
    import os

    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):
        return  # a stdout without a file descriptor has nothing left to flush
