"""Physics checks of a hardware profile: what the schema cannot know, each rule with its reason.

The schema says whether a parameter can be read; a rule here says whether it can be true. Most slips are a factor of
1000 (TB for GB), 10 (a decimal point) or 8 (bits for bytes), and nearly all of them break some identity between two
parameters of the same chip, or stand far from every like chip of the catalogue. ``error``: the parameters contradict
each other or physics; ``warning``: unusual, or nothing says where it comes from.

``dram``, ``memory``, ``compute``, ``links`` and ``costs`` hold the rules by the section that they read, ``ranges`` what
they measure against, ``likeness`` the comparison with other chips, ``sources`` where parameters come from.
"""

from simkit.hardware.lint.check import Finding, check_profile, lint

__all__ = ["Finding", "check_profile", "lint"]
