"""ModelSpec → (name, Cost) by layer. One file a family of layers; no machine is known here."""
