"""Networks: blocks, and how an architecture is built, traced, deployed, drawn and exported."""
