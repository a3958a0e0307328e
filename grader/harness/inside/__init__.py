"""UNTRUSTED: what runs in a life alongside student code. It reports, and judges nothing."""
