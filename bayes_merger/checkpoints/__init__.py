"""Model files: their contents, tensor names, reading and writing. Importing this stays light."""
