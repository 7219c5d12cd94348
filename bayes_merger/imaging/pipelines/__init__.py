"""Live diffusers pipelines that take new weights in place."""
