"""The plots of dvc.yaml are the curves that the quantities of its stages declare."""

from pathlib import Path

import yaml

from traj import analysis

ROOT = Path(__file__).parents[1]


def declared(quantity):
    return {curve.name: (curve.title, curve.y_label) for curve in analysis.load(quantity).curves}


def test_plots_are_the_declared_curves():
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    commands = [part for stage in pipeline["stages"].values() for part in stage.get("do", stage)["cmd"].split("traj ")]
    computed = {name for part in commands if part.startswith("analyze ") for name in part.split()[1].split(",")}
    curves = {name: said for quantity in sorted(computed) for name, said in declared(quantity).items()}
    shown = {}
    for plot in pipeline["plots"]:
        ((title, options),) = plot.items()
        ((file, column),) = options["y"].items()
        assert (options["x"], column, file.rpartition("/")[0]) == ("log_snr", "value", "report/plots")
        shown[Path(file).stem] = (title, options["y_label"])
    assert shown == curves
