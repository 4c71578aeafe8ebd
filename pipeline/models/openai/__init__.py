"""Networks of OpenAI's improved-diffusion, guided-diffusion and GLIDE; tensors have the names of their checkpoints."""
