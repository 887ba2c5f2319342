"""Who answers: vLLM engines, OpenAI-compatible endpoints, adapters and merged models, embeddings."""
