"""Source to source: layers of a `.cnn` text replaced by others, everything else left as it was written.

`tracing` finds out which statement made which layer, `frames` and `decisions` where one text can serve all runs of a
body and where a block needs a twin or a loop has to be unrolled, `statements` writes the new layers, `writing` edits
the text, `names` tells what parameters are called afterwards. `rewrite` is the way through all of them.
"""
