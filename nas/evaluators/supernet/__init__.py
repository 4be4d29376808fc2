"""Weight sharing: one trained supernet evaluates every network of a space."""
