"""From a graph back to the text of a net: layers are recognised, nested by their names, and written out.

recognition   nodes to layers with their arguments (`readers` has one function per op, `inputs` the net's two ends)
structure     layers to bodies: residuals, branches, blocks, by the components of their names and what reads what
names         which layers need a `name=`
blocks        bodies that are alike to one block with parameters
layout        all that to text
"""
