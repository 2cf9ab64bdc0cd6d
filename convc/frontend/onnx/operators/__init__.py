"""How the operators of ONNX become ops, one function each; `convc.frontend.onnx.table` lists them."""
