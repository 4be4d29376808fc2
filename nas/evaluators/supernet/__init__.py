"""Weight sharing: one trained supernet evaluates all networks of a space."""
