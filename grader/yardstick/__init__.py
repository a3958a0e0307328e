"""What only runs without student code may compute with: expected states, replayed runs."""
