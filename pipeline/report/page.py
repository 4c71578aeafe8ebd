"""The page of a report: one HTML file that needs nothing else."""

from __future__ import annotations

from html import escape

from traj.pipeline.report.contents import Material
from traj.pipeline.report.failures import Failed, body

CSS = """
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; color: #222; background: #fff;
  max-width: 1080px; margin: 0 auto; padding: 1.5rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0.5rem 0 1rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 0.5rem; padding-top: 0.7rem; border-top: 1px solid #ddd; }
h3 { font-size: 1rem; margin: 1.6rem 0 0.3rem; }
p, ul, dl { max-width: 47rem; }
nav a { margin-right: 1.2rem; white-space: nowrap; }
a { color: #0b5394; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1rem; }
dt { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 0.9em; }
dd { margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; margin: 0.5rem 0 1rem; }
th, td { padding: 0.3rem 0.8rem 0.3rem 0; border-bottom: 1px solid #e4e4e4; text-align: left; vertical-align: bottom; }
td { vertical-align: top; }
th { font-weight: 600; }
.number { text-align: right; white-space: nowrap; }
figure { margin: 0.8rem 0 1.5rem; }
figure img { width: 100%; height: auto; display: block; }
figcaption { font-size: 0.9rem; color: #444; max-width: 56rem; margin-top: 0.4rem; }
.swatch { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 2px; margin-right: 0.5em; }
.run { display: inline-block; max-width: 40rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
  vertical-align: bottom; }
.remarks { border-left: 3px solid #e69f00; padding: 0.2rem 0 0.2rem 1rem; font-size: 0.9rem; }
code { font-size: 0.9em; }
"""

WORDS = {
    "timestep t": "how noisy a state is, as the place in the training schedule: the highest is pure noise, 0 almost "
    "clean. The process runs from high to low, in every figure from left to right.",
    "x_t": "the state the network is given at timestep t.",
    "pred_x0": "the finished image as the network predicts it from x_t alone, not clipped.",
    "x_0": "the finished image, at the end of the process.",
    "log SNR": "ln(ᾱ / (1 − ᾱ)): how much of x_t is image and how much noise; 0 where there is as much of one as of "
    "the other. It does not depend on how a schedule counts its timesteps, so schedules compare on it.",
}

SOURCES = {
    "000": "Stout, Lensen, Frean: Quantifying Feature Emergence in the Reverse Processes of Diffusion Probabilistic "
    "Models. Figs 1 to 3: montages, stepwise entropy, joint maps.",
    "002": "Prasad et al.: Unraveling the Temporal Dynamics of the Unet in Diffusion Models. Figs 16 and 17: PSNR and "
    "SSIM over the process; Figs 3 to 10, 15, 18 and 19: interventions; Figs 11 to 13 and 22: the shortcut.",
}


def html(material: Material, failed: Failed) -> str:
    """Write the page: its sections in their order, those with nothing to show left out."""
    bodies = [(section, body(section, material, failed)) for section in material.sections]
    shown = [(section.anchor, section.title, text) for section, text in bodies if text]
    links = "".join(f'<a href="#{anchor}">{title}</a> ' for anchor, title, _ in shown)
    words = "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in WORDS.items())
    sources = "".join(f"<dt>{number}</dt><dd>{escape(source)}</dd>" for number, source in SOURCES.items())
    sections = "\n".join(f'<h2 id="{anchor}">{title}</h2>\n{text}' for anchor, title, text in shown)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Reverse trajectories</title>
<style>{CSS}</style>
</head>
<body>
<h1>When do features emerge in a diffusion model’s reverse process?</h1>
<p>Every run below starts from noise and turns it into images step by step. The states on the way were stored, and
the figures ask of them: when is it settled what the finished image will show?</p>
<dl>{words}</dl>
<nav>{links}</nav>
{sections}
<h2 id="sources">Sources</h2>
<dl>{sources}</dl>
</body>
</html>
"""
