"""Studies as data, for pages and programs."""
