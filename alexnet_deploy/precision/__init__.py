"""FP16 and BF16 by conversion, INT8 by calibration and Q/DQ nodes placed per target."""
