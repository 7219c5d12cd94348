"""What parts of model B do to model A's pictures, each alone, and what a search makes of it."""
