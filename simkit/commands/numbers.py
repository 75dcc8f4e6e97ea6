"""Whole numbers on the command line, in the words of lists."""

from __future__ import annotations

from typing import Any

import click

from simkit.foundation.errors import UserError


class Whole(click.IntRange):
    """One whole number as :func:`simkit.foundation.axis_syntax.parse_axis` reads it, such as ``4k``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, within the range."""
        if isinstance(value, str):
            from simkit.foundation.axis_syntax import parse_axis

            name = "" if param is None else param.opts[-1]
            found = parse_axis(value, what=name, minimum=None)
            if len(found) != 1:
                raise UserError(f"{name}: expected one value, not a list")
            value = int(found[0])
        return super().convert(value, param, ctx)
