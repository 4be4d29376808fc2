"""How well an evaluator ranks networks, checked against reference trainings."""
