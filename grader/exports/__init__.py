"""`grade export`: results in the formats of other systems, and graders that run in them."""
