"""Request scheduling for LLM serving."""
