"""The network as Core ML packages in buckets of fixed length. Not exercised on Apple hardware."""
