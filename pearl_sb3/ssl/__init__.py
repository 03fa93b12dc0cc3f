"""Self-supervised objectives: pure functions of embeddings."""
