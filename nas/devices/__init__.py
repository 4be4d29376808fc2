"""A device that runs and times exported graphs: this machine, one over ssh, or a board without a connection."""
