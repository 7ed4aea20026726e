"""Reads and writes files safely: against kills, full disks and hostile content."""
