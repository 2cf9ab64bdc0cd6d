"""From plans to CUDA: `.cu` files that a generated prelude specialises, and the launches that make up a step."""
