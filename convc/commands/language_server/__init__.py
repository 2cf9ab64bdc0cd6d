"""The language server: what editors ask about `.cnn` files, answered from the checker's own tables and results."""
