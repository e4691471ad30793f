"""Students of the published network: corpora, lessons, training, and what students lose."""
