"""Compound scaling: depth, width and resolution of any architecture, published rules and families, and the search."""
