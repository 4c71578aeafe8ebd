"""What the numbers were measured on, without saying whose machine it is."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from traj.pipeline.estimate import size

PACKAGES = ("numpy", "numba", "dask", "xarray", "zarr", "numcodecs", "torch", "diffusers", "scikit-image")


def describe() -> list[str]:
    """List processor, memory, system, versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = [
        f"processor: {_processor()}, {os.cpu_count()} cores",
        f"memory: {size(memory)}",
        f"system: {_system()}",
        f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    ]
    if torch.cuda.is_available():
        lines.insert(1, f"GPU: {torch.cuda.get_device_name()}")
    return lines


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _system() -> str:
    if platform.system() != "Linux":
        return platform.platform(terse=True)
    return f"{platform.freedesktop_os_release().get('PRETTY_NAME', 'Linux')}, Linux {platform.release().split('-')[0]}"
