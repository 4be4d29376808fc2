"""The source of a network as one Python file of plain torch that needs no nas."""
