"""Pictures: a live diffusers pipeline that takes new weights in place."""
