"""The input resolutions of a search's networks."""
