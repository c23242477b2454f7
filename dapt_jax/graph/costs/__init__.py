"""What a network costs, as functions of its gates: parameters, MACs, bytes, measured latency."""
