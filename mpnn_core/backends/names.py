"""The names of the backends, and what those that are not exact lose: data, without torch."""

BACKENDS = (
    "auto", "torch", "native", "cuda", "cuda-fast", "mlx", "mlx-fast", "mlx-int8", "coreml",
    "coreml-fast",
)  # fmt: skip
# What the backends that are not exact lose, as measured.
LOSSES = {
    "cuda-fast": "float16, its log-probabilities have a KL of 2.9e-5",
    "mlx-fast": "float16, its log-probabilities have a KL of 1e-5",
    "mlx-int8": "its log-probabilities have a KL of 2e-4, the likeliest residue changes in 2 %",
    "coreml-fast": "float16, its log-probabilities have a KL of 2e-6",
}
