"""Tell when and where features emerge in a diffusion model's reverse process."""
