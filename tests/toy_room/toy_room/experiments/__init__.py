"""The experiments of the toy room."""
