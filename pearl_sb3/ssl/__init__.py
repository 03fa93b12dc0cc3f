"""Self-supervised objectives: pure functions of embeddings, and the callback that optimises them beside the policy."""
