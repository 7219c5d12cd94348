"""What a merge will do to every tensor, and what that costs."""
