"""How labels travel through every primitive, and how each is replayed when cut."""
