"""A run to its estimate: operations, host queue, memory, result, comparison, reproduction."""
