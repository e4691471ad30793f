"""What a person says about residues: files of constraints, and selections."""
