"""One decode step as operators with exact flops and bytes, where their tensors live, and how chips share them."""
