"""The mixture of low-rank Gaussians of 004: its data, its exact denoiser, and the ratios it comes to."""
