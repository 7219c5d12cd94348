"""One module for each page: its routes, what it answers and takes."""
