"""The models of a merge: files, LoRAs on a base, VAEs and EMA weights."""
