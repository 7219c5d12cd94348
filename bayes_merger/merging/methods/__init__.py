"""Merge methods: pure functions on tensors of one shape."""
