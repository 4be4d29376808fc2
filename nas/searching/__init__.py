"""One search, from its settings to its result."""
