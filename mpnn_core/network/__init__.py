"""ProteinMPNN itself: graph, features, encoder and decoder, and the checkpoints they load from."""
