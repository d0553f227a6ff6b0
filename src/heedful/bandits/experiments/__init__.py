"""The room's systems, one module each: what the paper claims, and how it is measured here."""
