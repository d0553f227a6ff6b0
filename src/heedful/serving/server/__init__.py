"""``heedful serve``: an OpenAI-compatible server on transformers' own serving stack, with a scheduler of this room."""
