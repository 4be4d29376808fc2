"""Reference networks: off-the-shelf networks of the same latency that are trained and tested beside the winner."""
