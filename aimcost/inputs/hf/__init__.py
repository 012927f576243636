"""Hugging Face config.json files to a `ModelSpec`, one module a family."""
