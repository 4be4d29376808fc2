"""From an architecture to a network: blocks, build, trace, deploy, pretrained weights, diagram and export."""
