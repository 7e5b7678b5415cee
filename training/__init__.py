"""Training of nano's own parts: the small BEATs, the connector and the LoRA (needs torch)."""
