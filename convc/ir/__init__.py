"""The intermediate representation: types, ops, graph, and the tools that read, write, check and run it."""
