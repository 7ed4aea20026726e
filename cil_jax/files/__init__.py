"""How files are written and read, so that neither a kill nor a hostile file does harm."""
