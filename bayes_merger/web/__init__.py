"""What a browser sees: one application, its guard, its pages and its look."""
