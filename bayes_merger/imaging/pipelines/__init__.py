"""Live diffusers pipelines whose weights are replaced in place."""
