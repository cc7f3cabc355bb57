"""What completes and scores responses: the embedded engine, recorded samples, SGLang servers."""
