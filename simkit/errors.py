"""The error that a user's mistake raises, under its public name."""

from __future__ import annotations

from simkit.foundation.errors import Location, UserError

__all__ = ["Location", "UserError"]
