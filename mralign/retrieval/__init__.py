"""What a search finds: BM25 over a corpus, search endpoints."""
