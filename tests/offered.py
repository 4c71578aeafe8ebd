"""A package of somebody else's that offers quantities or readouts, as pip would have installed it."""

from pathlib import Path


def install(
    folder: Path, package: str, entry_points: dict[str, str], *, group: str = "traj.analysis", **modules: str
) -> Path:
    """Write modules of one file each, and what names them, into a folder that is to be put on sys.path."""
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir(parents=True)
    about.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = (f"{name} = {value}\n" for name, value in entry_points.items())
    about.joinpath("entry_points.txt").write_text(f"[{group}]\n" + "".join(lines))
    for name, code in modules.items():
        folder.joinpath(f"{name}.py").write_text(code)
    return folder
