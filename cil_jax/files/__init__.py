"""Safe reading and writing of files, of whatever content.

A killed process leaves no half-written file, and a hostile file runs no code and fills no memory.
What the files mean is decided in the folders above.
"""
