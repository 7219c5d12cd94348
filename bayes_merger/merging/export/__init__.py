"""What is written of a merge: its metadata, a LoRA, a diffusers folder."""
