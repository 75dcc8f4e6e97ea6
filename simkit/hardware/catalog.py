"""Loading profiles by name, alias or path, with ``--set`` overrides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from simkit.foundation.errors import Location, UserError
from simkit.foundation.named_files import Fault, catalogue_files, find_file, read_all, user_folders
from simkit.foundation.resources import shipped_folder
from simkit.foundation.yaml_source import YamlSource, load_yaml
from simkit.hardware.document import kernel_file_from_yaml, profile_from_yaml
from simkit.hardware.inherit import PROFILES, aliases_of, load_profile_source
from simkit.hardware.kernel import HIGHEST_FRACTION, DecodeKernel, kernel_from_parameters
from simkit.hardware.priors import assumption, with_priors
from simkit.hardware.profile import HardwareProfile

KIND: Final = PROFILES
VARIABLE: Final = "SIMKIT_PROFILES"
CATALOGUE: Final = "catalogue"  # among names: every profile there is
REACHED: Final = ("dram_achieved_fraction", "gemm.dram_achieved_fraction", "moe.dram_achieved_fraction")
WRITTEN_FOR_DRAM: Final = ("latent.load_bytes_per_cycle_per_unit", "gemm.load_bytes_per_cycle_per_unit",
                           "moe.load_bytes_per_cycle_per_unit")
PRODUCT_RATE: Final = "gemm.matrix_efficiency"
# Architectures with MLA kernels of their own, by the instructions these are written in: vLLM runs FlashMLA on compute
# capability 9 and 10, CUTLASS MLA on 10; 12 has neither wgmma nor tcgen05 (sgl-project/sglang issue 17880, pull 24047).
LATENT_KERNELS: Final = {"sm_90": "wgmma", "sm_100": "tcgen05", "sm_103": "tcgen05"}
Chips = Callable[[str], HardwareProfile]
"""Gives the profile of a name or path, such as :func:`load_hardware` or one that changes a parameter."""


def load_hardware(name_or_path: str | Path, *, overrides: Mapping[str, str] | None = None,
                  profiles: Path | str | None = None, assume: str | None = None) -> HardwareProfile:
    """Load one profile by catalogue name (``h100-sxm``), alias (``h100_sxm``) or path.

    Parameters: overrides: values by dotted key, as after ``--set`` (``{"memory.hbm.bandwidth": "8TB/s"}``);
    profiles: a folder searched before the catalogue; assume: what stands for parameters that no source gives:
    ``priors`` of the chip's class (:mod:`simkit.hardware.priors`), or ``ideal``; None: as
    :func:`simkit.hardware.priors.assuming` says, else priors. Raises :class:`UserError` naming file, line and key.
    """
    folders = user_folders(profiles, VARIABLE)
    path = find_file(str(name_or_path), kind=KIND, what="hardware profile", folders=folders,
                     aliases=lambda: aliases_of(folders))
    source = load_profile_source(path, folders)
    if overrides:
        profile = with_priors(profile_from_yaml(source.whole, overrides), assume, _as_stated(source.whole))
    else:
        profile = _with_priors(source.whole, assumption() if assume is None else assume)
    if profile.kernel_parameters is None:
        return profile
    # Kernels are tuned for the memory that the chip has, not for the one that a what-if gives it.
    changed = overrides or source.as_built is not source.whole
    as_built = _as_stated(source.as_built) if changed else profile
    return replace(profile, kernel=_kernel(profile, as_built, folders))


# A study asks for the same chips again and again, and nobody changes what it was given.
_as_stated = lru_cache(maxsize=256)(profile_from_yaml)


@lru_cache(maxsize=256)
def _with_priors(source: YamlSource, assume: str) -> HardwareProfile:
    return with_priors(_as_stated(source), assume)


def with_kernel(profile: HardwareProfile) -> HardwareProfile:
    """The profile with kernels to start a calibration from: its own, else those that are alike everywhere."""
    if profile.kernel is not None:
        return profile
    return replace(profile, kernel_parameters={}, kernel=_kernel(replace(profile, kernel_parameters={}), profile, ()))


def _kernel(profile: HardwareProfile, as_built: HardwareProfile, folders: Sequence[Path]) -> DecodeKernel:
    """The profile's own kernel parameters over those of the chip that it names, over what is alike everywhere."""
    own, borrowed = profile.kernel_parameters or {}, {}
    neighbour: str | None = None
    if profile.kernel_like is not None:
        # The neighbour of the profile's own file first: a user's chip of the same name need not have been measured.
        beside = [Path(chip.file).parent for chip in (profile, as_built) if chip.file]
        path = find_file(profile.kernel_like, kind=KIND, what="hardware profile", folders=[*beside, *folders],
                         aliases=lambda: aliases_of(folders))
        like = _as_stated(load_profile_source(path, folders).whole)
        if like.kernel_parameters is None or like.kernel_like is not None:
            raise UserError(f"{like.name} has no kernel parameters of its own",
                            hint="expected a chip that was measured",
                            where=Location(file=profile.file or profile.name, key="kernel.like"))
        borrowed = dict(like.kernel_parameters)
        neighbour = like.compute.architecture
        lent = _dram_bytes_per_cycle(like)
        for name in REACHED:
            if name in borrowed:
                # What kernels reach of a stream's bandwidth is alike; what streams reach of the peak is the chip's own.
                ratio = profile.main_memory.achievable_fraction / like.main_memory.achievable_fraction
                borrowed[name] = min(borrowed[name] * ratio, HIGHEST_FRACTION)
        for name in WRITTEN_FOR_DRAM:
            if name in borrowed:
                # Kernels for latents and products are written against the chip's DRAM: they keep up with a faster one.
                borrowed[name] *= max(_dram_bytes_per_cycle(as_built) / lent, 1.0) if lent else 1.0
        if PRODUCT_RATE in borrowed:
            # Units of one family multiply alike: a peak that is set lower (GeForce's accumulation) is reached sooner.
            ratio = _matrix_flop_per_cycle(like) / _matrix_flop_per_cycle(profile)
            borrowed[PRODUCT_RATE] = min(borrowed[PRODUCT_RATE] * max(ratio, 1.0), HIGHEST_FRACTION)
    everywhere = _kernels("gpu-decode")
    if not _shares_latent_kernels(profile.compute.architecture, neighbour) and "latent.launch_cycles" not in own:
        borrowed = {name: value for name, value in borrowed.items() if not name.startswith("latent.")}
        everywhere = everywhere | _kernels("latent-fallback")
    bandwidth, clock = as_built.main_memory.chip_bandwidth_bytes_per_s, profile.compute.clock_hz
    if bandwidth is None or clock is None:
        raise UserError(f"{profile.name}: kernel parameters need compute.clock and the bandwidth of the main memory",
                        where=Location(file=profile.file or profile.name, key="kernel"))
    kernel = kernel_from_parameters(everywhere, borrowed, own, tuned_for_bytes_per_s=bandwidth)
    if "load_bytes_per_cycle_per_unit" in own:
        return kernel
    share = _dram_bytes_per_cycle(as_built)
    return kernel.reaching(kernel.dram_achieved_fraction * share) if borrowed else kernel.provisioned(share)


@lru_cache
def _kernels(name: str) -> dict[str, float]:
    return kernel_file_from_yaml(load_yaml(shipped_folder(KIND) / "kernels" / f"{name}.yaml"))


def _shares_latent_kernels(own: str | None, neighbour: str | None) -> bool:
    """Whether a chip runs its neighbour's MLA kernels; where no architecture is stated nothing speaks against it."""
    if own is None or own == neighbour:
        return True
    return own in LATENT_KERNELS and (neighbour is None or LATENT_KERNELS[own] == LATENT_KERNELS.get(neighbour))


def _matrix_flop_per_cycle(profile: HardwareProfile) -> float:
    """Of one unit at its 16-bit peak."""
    compute = profile.compute
    peak = compute.matrix_peak_flop_per_s[compute.matrix_dtype("bf16")]
    return float(peak) / compute.units / compute.known_clock_hz


def _dram_bytes_per_cycle(profile: HardwareProfile) -> float:
    """Of one unit, at the main memory's peak."""
    compute = profile.compute
    return float(profile.main_memory.chip_bandwidth_bytes_per_s or 0.0) / compute.units / compute.known_clock_hz


def list_chips(profiles: Path | str | None = None) -> list[str]:
    """The names of all profiles of the catalogue and of the user's folders."""
    return list(catalogue_files(KIND, user_folders(profiles, VARIABLE)))


def list_hardware(profiles: Path | str | None = None, fault: Fault = None) -> list[HardwareProfile]:
    """Every profile of the catalogue and of the user's folders, by name.

    ``fault`` is given the error of a file that cannot be read, which is left out; None: it is raised.
    """
    return read_all(KIND, user_folders(profiles, VARIABLE), lambda path: load_hardware(path, profiles=profiles), fault)


def parse_overrides(settings: Sequence[str]) -> dict[str, str]:
    """Read repeated ``--set key=value`` options. Raises :class:`UserError` when one has no ``=``."""
    overrides: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise UserError(f"'{setting[:60]}' is not key=value", where=Location(file="--set"),
                            hint="such as --set memory.hbm.bandwidth=8TB/s")
        overrides[key.strip()] = value.strip()
    return overrides

