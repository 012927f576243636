"""Evaluation harnesses running reduced models: lmms-eval through its entry point, VLMEvalKit through a registration."""
