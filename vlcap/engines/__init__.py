"""What runs a captioner: PyTorch or ONNX Runtime, behind one protocol (interface.py)."""
