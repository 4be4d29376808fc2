"""A search within a total time: its plan, and the pilot that certifies how well its evaluations rank."""
