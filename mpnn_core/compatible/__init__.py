"""What the originals' commands read and write: structures, inputs in JSON, files of results."""
