"""Model files: what they hold, how they are named, read and written. Importing this stays light."""
