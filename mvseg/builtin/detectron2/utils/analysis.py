"""Parameter, FLOP and activation counts: fvcore's, under Detectron2's names."""

from fvcore.nn import FlopCountAnalysis, activation_count, flop_count, parameter_count, parameter_count_table

flop_count_operators = flop_count
activation_count_operators = activation_count

__all__ = [
    "FlopCountAnalysis",
    "activation_count_operators",
    "flop_count_operators",
    "parameter_count",
    "parameter_count_table",
]
