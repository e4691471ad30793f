"""What computes the network: plain torch, native code, CUDA, MLX, Core ML; one contract."""
