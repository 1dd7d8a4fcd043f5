"""Quantized networks as files that other runtimes run: ONNX and torch.export."""
